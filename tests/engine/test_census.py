"""The look at the data before training: what cannot be learned is refused, what cannot be judged is warned about."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from fairprune_plugin.engine.census import check_loader
from fairprune_plugin.errors import DataError, FairPruneWarning
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import AccuracyParity, EqualizedOdds, EqualOpportunity
from fairprune_plugin.fairness.lagrangian import Lagrangian

NAMES = ("young", "middle", "old")


def check(constraint: Constraint | None, y: list[int], s: list[int] | None, split: str = "train") -> None:
    x = torch.zeros(len(y), 1)
    parts = (x, torch.tensor(y)) if s is None else (x, torch.tensor(y), torch.tensor(s))
    half = max(len(y) // 2, 1)
    loader = [tuple(p[:half] for p in parts), tuple(p[half:] for p in parts)] if len(y) > 1 else [parts]
    check_loader(loader, nn.Linear(1, 2), Lagrangian(constraint), split=split)


def test_good_data_pass_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for split in ("train", "validation"):
            check(EqualizedOdds(0.1, groups=NAMES), [0, 1] * 3, [0, 0, 1, 1, 2, 2], split)


def test_without_a_constraint_nothing_is_read() -> None:
    def explode() -> object:
        raise AssertionError("read")
        yield

    check_loader(explode(), nn.Linear(1, 2), Lagrangian(None), split="train")  # type: ignore[arg-type]


ERRORS = {
    "one-group": (
        AccuracyParity(0.1, groups=NAMES),
        [0, 1],
        [1, 1],
        r"one group only \(middle\) of young, middle, old",
    ),
    "absent-group": (AccuracyParity(0.1, groups=NAMES), [0, 1], [0, 2], "no sample of group middle"),
    "no-positives": (
        EqualOpportunity(0.1),
        [1, 0, 0, 0],
        [0, 0, 1, 1],
        r"true_positive_rate\[1\] is undefined for group 1",
    ),
    "no-negatives": (
        EqualizedOdds(0.1),
        [1, 1, 1, 0],
        [0, 0, 1, 1],
        r"false_positive_rate\[1\] is undefined for group 0",
    ),
    "no-attribute": (AccuracyParity(0.1), [0, 1], None, r"needs \(x, y, s\)"),
    "undeclared-group": (
        AccuracyParity(0.1),
        [0, 1],
        [0, 2],
        "group id 2 of the sensitive attribute was never declared",
    ),
}


@pytest.mark.parametrize(("constraint", "y", "s", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_unlearnable_training_data_are_refused(constraint, y, s, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(constraint, y, s)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_loader_is_refused(split: str) -> None:
    with pytest.raises(DataError, match=f"the {split} loader is empty"):
        check_loader([], nn.Linear(1, 2), Lagrangian(AccuracyParity(0.1)), split=split)


@pytest.mark.parametrize("case", ["absent-group", "no-positives", "no-negatives"])
def test_on_validation_data_the_same_is_a_warning(case: str) -> None:
    constraint, y, s, message = ERRORS[case]
    with pytest.warns(FairPruneWarning, match=message):
        check(constraint, y, s, "validation")
