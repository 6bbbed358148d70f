"""Multipliers driven by held-out batches: hand-computed windows, modes, and who is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fairprune_plugin.distributed import Ranks
from fairprune_plugin.engine.loaders.batches import default_forward
from fairprune_plugin.engine.run.validation_stream import ValidationStream
from fairprune_plugin.fairness.constraints import AccuracyParity
from fairprune_plugin.fairness.lagrangian import VALIDATION, Lagrangian
from fairprune_plugin.fairness.multipliers import MultiplierConfig

S = torch.tensor([0, 0, 1, 1])
# The logit is the input and every label is 1: inputs say who is classified correctly.
ONE, OTHER = torch.tensor([1.0, 1.0, 1.0, -1.0]), torch.tensor([1.0, -1.0, -1.0, -1.0])


class Pass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return x


def test_lambda_follows_the_windowed_counts_of_the_stream() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1, reference=1), config=MultiplierConfig(lr=0.5), driver=VALIDATION)
    loader = [(ONE, torch.ones(4), S), (OTHER, torch.ones(4), S)]
    stream, model = ValidationStream(loader, window=4, every=3, forward=default_forward), Pass().train()
    expected, hits, total = 0.0, torch.zeros(2), 0.0
    for right in (ONE, OTHER, ONE, OTHER, ONE):  # the loader starts over
        stream.dual_step(model, lagrangian)
        hits = 0.75 * hits + torch.stack([(right[:2] > 0).sum(), (right[2:] > 0).sum()])
        total = 0.75 * total + 2
        gap = float(hits[0] - hits[1]) / total
        expected = max(0.0, expected + 0.5 * 3 * (gap - 0.1))
        assert float(lagrangian.trackers[0].multipliers.value[0, 0, 0]) == pytest.approx(expected, rel=1e-5)
    assert expected > 1
    assert model.modes == [False] * 5, "looked at in eval mode"
    assert model.training
    assert float(lagrangian.trackers[0].counts.samples) == 0, "the training counts are not touched"


def test_a_window_of_one_batch_still_remembers_the_last() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.0), driver=VALIDATION)
    stream = ValidationStream([(ONE, torch.ones(4), S)], window=1, every=1, forward=default_forward)
    for _ in range(3):
        stream.dual_step(Pass(), lagrangian)
    assert torch.isfinite(lagrangian.trackers[0].multipliers.value).all()


def test_after_a_switch_the_counts_go_on() -> None:
    """As folds do it: the held-out part changes, what was seen of the former one is not forgotten."""
    lagrangian = Lagrangian(
        AccuracyParity(0.0, reference=1), config=MultiplierConfig(lr=1.0, cap=100.0), driver=VALIDATION
    )
    stream = ValidationStream([(ONE, torch.ones(4), S)], window=2, every=1, forward=default_forward)
    stream.dual_step(Pass(), lagrangian)
    assert float(lagrangian.trackers[0].multipliers.value[0, 0, 0]) == pytest.approx(0.5)
    stream.switch([(OTHER, torch.ones(4), S)])
    stream.dual_step(Pass(), lagrangian)
    # Group 0: (0.5 · 2 + 1) of (0.5 · 2 + 2) right; group 1: (0.5 · 1 + 0) of as many.
    assert float(lagrangian.trackers[0].multipliers.value[0, 0, 0]) == pytest.approx(0.5 + 2 / 3 - 0.5 / 3)


def test_driven_by_both_the_larger_violation_counts() -> None:
    """Training counts see equal groups, held-out ones do not, and the other way round."""
    equal = torch.tensor([1.0, -1.0, 1.0, -1.0])
    for training, held_out in ((equal, ONE), (ONE, equal)):
        lagrangian = Lagrangian(AccuracyParity(0.0, reference=1), config=MultiplierConfig(lr=1.0), driver=VALIDATION)
        lagrangian.loss(training, torch.ones(4), S)
        loader = [(held_out, torch.ones(4), S)]
        stream = ValidationStream(loader, window=2, every=1, forward=default_forward, and_training=True)
        stream.dual_step(Pass(), lagrangian)
        assert float(lagrangian.trackers[0].multipliers.value[0, 0, 0]) == pytest.approx(0.5)


def test_each_constraint_sees_its_own_attribute() -> None:
    s = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 0, 1])}
    lagrangian = Lagrangian(
        [AccuracyParity(0.0, {"a": 2}, reference=1), AccuracyParity(0.0, {"b": 2}, reference=1)],
        config=MultiplierConfig(lr=1.0),
        driver=VALIDATION,
    )
    right = torch.tensor([1.0, -1.0, 1.0, -1.0])  # equal for a; b: 1 against 0
    stream = ValidationStream([(right, torch.ones(4), s)], window=2, every=1, forward=default_forward)
    stream.dual_step(Pass(), lagrangian)
    first, second = (tracker.multipliers.value[0, 0, 0] for tracker in lagrangian.trackers)
    assert (float(first), float(second)) == (0.0, pytest.approx(1.0))


class OfTwo(Ranks):
    """As one of two ranks that look at the same batches, the other of which says something about its own loader."""

    size = 2

    def __init__(self, told: int) -> None:
        super().__init__()
        self.told = told

    def collect(self, local: Any) -> list[Any]:
        return [local(), self.told]

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def test_ranks_with_different_numbers_of_batches_have_one_window() -> None:
    multipliers = []
    for own, other in ((4, 8), (8, 4)):
        config = MultiplierConfig(lr=0.5)
        lagrangian = Lagrangian(AccuracyParity(0.1, reference=1), config=config, driver=VALIDATION, ranks=OfTwo(other))
        batches = [(ONE, torch.ones(4), S), (OTHER, torch.ones(4), S)]
        stream = ValidationStream(batches, window=own, every=3, forward=default_forward)
        for _ in range(5):
            stream.dual_step(Pass(), lagrangian)
        multipliers.append(lagrangian.trackers[0].multipliers.value)
    assert torch.equal(*multipliers)


def test_a_position_of_the_first_rank_is_found_by_one_with_fewer_batches() -> None:
    """Trainers save one state for all ranks."""
    lagrangian = Lagrangian(AccuracyParity(0.1, reference=1), driver=VALIDATION, ranks=OfTwo(4))
    batch = (ONE, torch.ones(4), S)
    for steps in range(1, 10):
        first, second = (ValidationStream([batch] * n, window=4, every=1, forward=default_forward) for n in (4, 3))
        resumed = ValidationStream([batch] * 3, window=4, every=1, forward=default_forward)
        for _ in range(steps):
            first.dual_step(Pass(), lagrangian)
            second.dual_step(Pass(), lagrangian)
        resumed.load_state_dict(first.state_dict(), lagrangian)
        own, expected = (stream.state_dict()["batches"] for stream in (resumed, second))
        assert (own["pass"], own["taken"]) == (expected["pass"], expected["taken"])
