"""Endless batches, and the position in them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from fairprune_plugin.engine.loaders.batch_stream import BatchStream
from fairprune_plugin.engine.loaders.folds import Folds
from fairprune_plugin.engine.loaders.randomness import random_state, set_random_state
from fairprune_plugin.errors import DataError

DATA = TensorDataset(torch.arange(23))


class Noisy(Dataset[Any]):
    """Augments with torch's global random state, as transforms do."""

    def __len__(self) -> int:
        return 13

    def __getitem__(self, index: int) -> Tensor:
        return index + torch.rand(())


class Shuffled:
    """A loader of the user's own with a generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.randperm(7, generator=self.generator)


LOADERS = {
    "list": lambda: list(torch.arange(5)),
    "in order": lambda: DataLoader(DATA, batch_size=4),
    "shuffled by the global state": lambda: DataLoader(DATA, batch_size=4, shuffle=True),
    "shuffled by its generator": lambda: DataLoader(
        DATA, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(2)
    ),
    "weighted": lambda: DataLoader(
        DATA, batch_size=4, sampler=WeightedRandomSampler(torch.rand(23, generator=torch.Generator()), 17)
    ),
    "augmented": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "own": Shuffled,
}


def take(stream: BatchStream, count: int) -> list[list[float]]:
    """Batches, with the draws of a training step between them."""
    out = []
    for _ in range(count):
        batch = next(stream)
        out.append((batch[0] if isinstance(batch, list) else batch).reshape(-1).tolist())
        torch.rand(3)
    return out


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS.keys())
@pytest.mark.parametrize("position", [0, 1, 5, 6, 11, 12])
def test_batches_go_on_where_the_state_was_taken(make: Any, position: int) -> None:
    torch.manual_seed(1)
    stream = BatchStream.over(make(), "train")
    take(stream, position)
    state, now = copy.deepcopy(stream.state_dict()), random_state()
    expected = take(stream, 15)
    torch.manual_seed(99)  # another process: a new loader, and whatever random state
    resumed = BatchStream.over(make(), "train")
    resumed.load_state_dict(state)
    set_random_state(now)
    assert take(resumed, 15) == expected


@pytest.mark.parametrize("position", [0, 2, 9])
def test_a_stream_beside_folds_tells_which_part_is_held_out(position: int) -> None:
    def start() -> tuple[BatchStream, list[Any]]:
        held: list[Any] = []
        return BatchStream.beside_folds(Folds(list(torch.arange(6)), 3), held.append), held

    stream, held = start()
    take(stream, position)
    state = copy.deepcopy(stream.state_dict())
    already = len(held)
    expected = take(stream, 8)
    resumed, seen = start()
    resumed.load_state_dict(state)
    assert take(resumed, 8) == expected
    assert seen == held[max(already - 1, 0) :], "the current part is announced again"


def test_passes_follow_each_other() -> None:
    assert take(BatchStream.over(list(torch.arange(3)), "train"), 7) == [[0], [1], [2], [0], [1], [2], [0]]


def test_an_empty_pass_is_an_error_and_not_an_endless_loop() -> None:
    with pytest.raises(DataError, match="the train loader yields no batch"):
        next(BatchStream.over([], "train"))
    stream = BatchStream.over(iter([torch.zeros(1)]), "mask")
    next(stream)
    with pytest.raises(DataError, match="the mask loader yields no batch"):
        next(stream)


def test_a_loader_that_is_shorter_now_is_refused() -> None:
    stream = BatchStream.over(list(torch.arange(9)), "train")
    take(stream, 8)
    with pytest.raises(DataError, match="8 batches into a pass over a loader that has only 5"):
        BatchStream.over(list(torch.arange(5)), "train").load_state_dict(stream.state_dict())


def test_batches_without_samples_are_left_out_and_count_in_the_position() -> None:
    batches = [torch.arange(n) for n in (0, 3, 0, 0, 4, 0)]
    stream = BatchStream.over(batches, "train")
    assert [len(next(stream)) for _ in range(5)] == [3, 4, 3, 4, 3]
    assert stream.state_dict()["taken"] == 2
    again = BatchStream.over(batches, "train")
    again.load_state_dict(stream.state_dict())
    assert [len(next(again)) for _ in range(3)] == [len(next(stream)) for _ in range(3)] == [4, 3, 4]


def test_nothing_but_batches_without_samples() -> None:
    with pytest.raises(DataError, match="the train loader yields no batch"):
        next(BatchStream.over([torch.arange(0)] * 2, "train"))
