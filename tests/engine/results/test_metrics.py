"""The metrics hook: names of values, what is left out, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fairprune_plugin import AccuracyParity, EqualOpportunity
from fairprune_plugin.engine.results.metrics import as_hooks, constraint_titles
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Task
from fairprune_plugin.fairness.tracker import ConstraintTracker
from writers.rows import evaluation, step, tracker


class Hook:
    def on_step(self, row: Any) -> None: ...

    def on_evaluation(self, row: Any) -> None: ...


def test_scalars_of_a_step() -> None:
    assert step(2, 0.25, tracker()).scalars() == {
        "train/loss": 0.25,
        "train/mask_step": 1.0,
        "pruned": 0.25,
        "multiplier/equal_opportunity": 0.0,
        "train/gap/equal_opportunity": 0.5,
    }


def test_what_is_undefined_is_left_out() -> None:
    unseen = ConstraintTracker(AccuracyParity(0.1), Task(2, None), MultiplierConfig())
    assert set(step(1, float("nan"), unseen).scalars()) == {
        *("train/mask_step", "pruned", "multiplier/accuracy_parity"),
    }
    assert "validation/gap/a by b:c" not in evaluation(1, gap=float("nan")).scalars()
    assert evaluation(1).scalars()["validation/gap/a by b:c"] == 0.2


def test_titles_tell_constraints_apart() -> None:
    def made(constraint: Any) -> ConstraintTracker:
        return ConstraintTracker(constraint, Task(2, None), MultiplierConfig())

    trackers = [
        made(EqualOpportunity(0.1)),
        made(EqualOpportunity(0.2, groups={"age": 3})),
        made(EqualOpportunity(0.3)),
        made(AccuracyParity(0.1)),
    ]
    titles = constraint_titles(trackers)
    assert titles == ("equal_opportunity", "equal_opportunity by age", "equal_opportunity #2", "accuracy_parity")


def test_rows_are_not_changed_by_who_reads_them() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        step(1).step = 2  # type: ignore[misc]


def test_one_several_or_none() -> None:
    one, two = Hook(), Hook()
    assert as_hooks(None) == ()
    assert as_hooks(one) == (one,)
    assert as_hooks([one, two]) == (one, two)


@pytest.mark.parametrize("wrong", [print, Hook, "runs", [Hook(), None], 3])
def test_something_else_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="expected metrics as an object with the methods on_step"):
        as_hooks(wrong)
