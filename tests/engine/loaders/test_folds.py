"""Folds: every sample is held out exactly once in k passes, and never trained on in the pass that holds it out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fairprune_plugin.engine.loaders.folds import Foldable, Folds
from fairprune_plugin.errors import ConfigError


def dataset(samples: int) -> TensorDataset:
    return TensorDataset(torch.arange(samples))


def seen(batches: Iterable[Any]) -> list[int]:
    return [int(value) for (batch,) in batches for value in batch]


@given(
    st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, min(n, 7)))),
    st.integers(1, 9),
    st.booleans(),
)
def test_every_sample_is_held_out_once_in_k_passes(size: tuple[int, int], batch: int, shuffle: bool) -> None:
    samples, k = size
    folds = Folds(DataLoader(dataset(samples), batch_size=batch, shuffle=shuffle), k)
    held = []
    for training, held_out in map(folds.of_pass, range(k)):
        train_ids, held_ids = seen(training), seen(held_out)
        assert sorted(train_ids + held_ids) == list(range(samples))
        assert abs(len(held_ids) - samples / k) < 1
        held += held_ids
    assert sorted(held) == list(range(samples))


def test_the_parts_are_the_same_in_every_round_and_mixed() -> None:
    folds = Folds(DataLoader(dataset(60), batch_size=8, shuffle=True), 3)
    rounds = [sorted(seen(held_out)) for _, held_out in map(folds.of_pass, range(6))]
    assert rounds[:3] == rounds[3:]
    assert rounds[0] != list(range(0, 60, 3)), "data sorted by label or group must not make one-sided folds"


def test_parts_do_not_depend_on_the_global_seed_and_leave_it_alone() -> None:
    loader = DataLoader(dataset(30), batch_size=8)
    first = seen(Folds(loader, 3).split(1)[1])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    folds = Folds(loader, 3)
    parts = folds.split(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert seen(parts[1]) == first


def test_shuffled_loaders_stay_shuffled_and_others_in_order() -> None:
    training = Folds(DataLoader(dataset(50), batch_size=8, shuffle=True), 2).split(0)[0]
    assert seen(training) != seen(training)
    assert sorted(seen(training)) == sorted(seen(training))
    in_order = seen(Folds(DataLoader(dataset(50), batch_size=8), 2).split(0)[0])
    assert in_order == sorted(in_order)


def test_settings_of_the_loader_are_kept() -> None:
    loader = DataLoader(
        dataset(25), batch_size=4, drop_last=True, collate_fn=lambda rows: [torch.stack([r[0] for r in rows]) + 100]
    )
    training, held_out = Folds(loader, 5).split(0)
    assert [len(batch) for (batch,) in training] == [4] * 5
    assert [len(batch) for (batch,) in held_out] == [4, 1], "held-out data are looked at completely"
    assert min(seen(held_out)) >= 100


def test_a_list_of_batches_is_split_by_batches() -> None:
    batches = [f"batch {i}" for i in range(7)]
    parts = [Folds(batches, 3).split(i) for i in range(3)]
    assert parts[1] == (["batch 0", "batch 2", "batch 3", "batch 5", "batch 6"], ["batch 1", "batch 4"])
    assert sorted(batch for _, held_out in parts for batch in held_out) == batches


class OwnLoader:
    """A loader of the user's own that knows how to split itself."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __iter__(self) -> Any:
        return iter("abcd")

    def fold(self, k: int, i: int) -> tuple[list[str], list[str]]:
        self.calls.append((k, i))
        return [c for j, c in enumerate("abcd") if j % k != i], [c for j, c in enumerate("abcd") if j % k == i]


def test_a_loader_that_can_split_itself_does() -> None:
    loader = OwnLoader()
    assert isinstance(loader, Foldable)
    assert [held_out for _, held_out in map(Folds(loader, 2).of_pass, range(3))] == [["a", "c"], ["b", "d"], ["a", "c"]]
    assert loader.calls == [(2, 0), (2, 1), (2, 0)]


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(range(10))


UNSPLITTABLE: dict[str, tuple[Any, str]] = {
    "iterable-dataset": (DataLoader(Endless(), batch_size=2), "map-style dataset"),
    "weighted-sampler": (
        DataLoader(dataset(8), batch_size=2, sampler=WeightedRandomSampler([1.0] * 8, 8)),
        "default samplers: pass a validation loader instead",
    ),
    "drawn-with-replacement": (
        DataLoader(dataset(8), batch_size=2, sampler=RandomSampler(dataset(8), replacement=True)),
        "default samplers",
    ),
    "only-some-samples": (
        DataLoader(dataset(8), batch_size=2, sampler=RandomSampler(dataset(8), num_samples=4)),
        "default samplers",
    ),
    "batch-sampler": (
        DataLoader(dataset(8), batch_sampler=BatchSampler(SequentialSampler(dataset(8)), 2, False)),
        "batch_size",
    ),
    "too-few-samples": (DataLoader(dataset(2), batch_size=2), "at least 3 samples for 3 folds, got 2"),
    "too-few-batches": ([1, 2], "at least 3 batches for 3 folds, got 2"),
    "generator": ((i for i in range(9)), r"cannot split a generator .*fold\(k, i\), or a validation loader"),
    "own": (Endless(), "cannot split a Endless"),
}


@pytest.mark.parametrize(("loader", "message"), UNSPLITTABLE.values(), ids=UNSPLITTABLE.keys())
def test_what_cannot_be_split_is_refused(loader: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Folds(loader, 3)


@pytest.mark.parametrize("k", [1, 0, -2, 2.0, True, None], ids=repr)
def test_fewer_than_two_folds_are_refused(k: Any) -> None:
    with pytest.raises(ConfigError, match="folds as a whole number ≥ 2"):
        Folds([1, 2, 3], k)
