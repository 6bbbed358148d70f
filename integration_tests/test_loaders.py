"""Loaders as people have them: workers that stay, memory that is used again, no end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fairprune_plugin import AccuracyParity, EqualOpportunity
from fairprune_plugin.errors import DataError
from fairprune_plugin.torch_pruning import BiFPPruner

SAMPLES, BATCH, STEPS = 120, 12, 20  # two passes
Parts = tuple[Tensor, Tensor, Tensor]


def numbered(samples: int, seed: int) -> Parts:
    """Inputs whose last column is the sample's number, classes and groups."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 5, generator=generator)
    s = torch.arange(samples) % 2
    y = (x[:, 0] + 0.5 * torch.randn(samples, generator=generator) * (1 + s) > 0).long()
    return torch.cat([x, torch.arange(float(samples))[:, None]], 1), y, s


def batches(parts: Parts, size: int) -> list[Parts]:
    return list(zip(*(part.split(size) for part in parts), strict=True))


def build(constraint: Any = None) -> tuple[nn.Sequential, BiFPPruner]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    constraint = constraint or EqualOpportunity(0.05)
    options: dict[str, Any] = {"pruning_ratio": 0.5, "ignored_layers": [model[-1]], "self_check": False}
    return model, BiFPPruner(model, torch.randn(2, 5), constraint=constraint, total_steps=STEPS, **options)


class Seen:
    """A forward function that notes which samples training, and which the multipliers, look at."""

    def __init__(self) -> None:
        self.trained_on: list[int] = []
        self.looked_at: list[list[int]] = []

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        numbers = x[:, -1].int().tolist()
        if torch.is_grad_enabled():
            self.trained_on += numbers
        else:
            self.looked_at.append(numbers)
        logits: Tensor = model(x[:, :5])
        return logits


def fit(train: Any, *, constraint: Any = None, **options: Any) -> Seen:
    model, pruner = build(constraint)
    seen = Seen()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pruner.fit(train, optimizer, forward=seen, progress=False, recalibration_batches=0, **options)
    return seen


@pytest.mark.parametrize("persistent", [False, True])
def test_looks_at_the_training_data_leave_their_order_alone(persistent: bool) -> None:
    """With persistent workers a loader has one iterator, which a second walk sets back."""
    loader: Any = DataLoader(
        TensorDataset(*numbered(SAMPLES, 1)),
        batch_size=BATCH,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
        num_workers=1,
        persistent_workers=persistent,
    )
    seen = fit(loader, validation=batches(numbered(60, 2), 20), validate_every=3)
    assert len(seen.looked_at) > STEPS  # there were looks
    assert Counter(Counter(seen.trained_on).values()) == {2: SAMPLES}


@pytest.mark.parametrize("persistent", [False, True])
def test_the_multipliers_see_all_held_out_batches(persistent: bool) -> None:
    """However often the same loader is evaluated in between."""
    held_out: Any = DataLoader(
        TensorDataset(*numbered(100, 2)), batch_size=10, num_workers=1, persistent_workers=persistent
    )
    seen = fit(batches(numbered(SAMPLES, 1), BATCH), validation=held_out, validate_every=4, dual_every=2)
    looks = Counter(tuple(numbers) for numbers in seen.looked_at if len(numbers) == 10)
    assert len(looks) == 10
    # Whole walks by evaluations, and one batch of each by the ten looks of the multipliers.
    assert len(set(looks.values())) == 1


class Refilled:
    """Fills the same memory with its next batch."""

    def __init__(self, parts: Parts, size: int) -> None:
        self.batches = batches(parts, size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Parts]:
        buffers = tuple(torch.empty_like(part) for part in self.batches[0])
        for batch in self.batches:
            for buffer, part in zip(buffers, batch, strict=True):
                buffer.copy_(part)
            yield buffers


def test_memory_that_a_loader_uses_again_is_read_in_time() -> None:
    x, y, s = numbered(SAMPLES, 1)
    s[-BATCH:] = 0  # the last batch has one group only
    seen = fit(Refilled((x, y, s), BATCH))
    assert set(seen.trained_on) == set(range(SAMPLES))
    s[:BATCH] = 2
    _, pruner = build(AccuracyParity(0.05, groups=None))
    assert pruner.discover_groups(Refilled((x[:, :5], y, s), BATCH)) == ("0", "1", "2")


class Endless:
    """Training data without an end, begun anew by every walk."""

    def __init__(self, parts: Parts) -> None:
        self.batches = batches(parts, BATCH)
        self.drawn = 0

    def __iter__(self) -> Iterator[Parts]:
        while self.drawn < 10 * STEPS:
            self.drawn += 1
            yield self.batches[self.drawn % len(self.batches)]
        raise AssertionError("walked without an end")


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("least", [0, 1], ids=["all-groups", "groups-of-some-size"])
def test_training_data_without_an_end_are_looked_at_for_as_long_as_the_run(validated: bool, least: int) -> None:
    train = Endless(numbered(SAMPLES, 1))
    validation = batches(numbered(60, 2), 20) if validated else None
    constraint = EqualOpportunity(0.05, min_group_size=least)
    assert len(fit(train, constraint=constraint, validation=validation).trained_on) == STEPS * BATCH


class Rewinding:
    """Is its own iterator, so that there is one walk at a time."""

    def __init__(self, parts: Parts) -> None:
        self.batches = batches(parts, BATCH)
        self.at = 0

    def __iter__(self) -> Rewinding:
        self.at = 0
        return self

    def __next__(self) -> Parts:
        if self.at == len(self.batches):
            raise StopIteration
        self.at += 1
        return self.batches[self.at - 1]


@pytest.mark.parametrize("which", ["train", "validation"])
def test_a_loader_that_is_its_own_iterator_is_refused(which: str) -> None:
    loaders: dict[str, Any] = {name: batches(numbered(SAMPLES, 1), BATCH) for name in ("train", "validation")}
    loaders[which] = Rewinding(numbered(SAMPLES, 1))
    with pytest.raises(DataError, match=f"the {which} loader is empty or a generator"):
        fit(loaders["train"], validation=loaders["validation"])
