"""The last paragraph: what it says first, and which constraints it says cannot be had together."""

from __future__ import annotations

import math

import pytest

from fairprune_plugin.engine.results.message import collisions, largest_loss, message
from fairprune_plugin.engine.results.result import HistoryRow
from fairprune_plugin.fairness.evaluation import Evaluation, RateOfGroup
from fairprune_plugin.fairness.verdict import Verdict

TOLERANCE = 0.05
NAMES = ("equal_opportunity", "accuracy_floor", "loss_parity")


def rates(**accuracies: float) -> tuple[RateOfGroup, ...]:
    return tuple(RateOfGroup("accuracy", group, value, 0.0, 1.0, 10) for group, value in accuracies.items())


def after(*gaps: float, status: str = "not decidable", shown: tuple[RateOfGroup, ...] = ()) -> Evaluation:
    verdicts = tuple(
        Verdict(name, "r", gap, 0.01, TOLERANCE, gap <= TOLERANCE, status, gap + 0.01, "", gap - 0.01, gap + 0.01)
        for name, gap in zip(NAMES, gaps, strict=False)
    )
    return Evaluation("validation", 100, 0.9, shown, verdicts, ())


def row(*gaps: float, at_target: bool = True) -> HistoryRow:
    return HistoryRow(1, 1.0, 0.5, 0.9, gaps, (), (), feasible=False, at_target=at_target)


def say(evaluation: Evaluation, history: list[HistoryRow], *, chosen: bool = True) -> str:
    return message(evaluation, evaluation, history, chosen=chosen)


def test_the_head_says_how_sure_it_is() -> None:
    assert say(after(), []) == "No constraint was asked for."
    assert say(after(0.04, status="satisfied"), []).startswith("On the validation data the constraint holds. ")
    within = say(after(0.04), [])
    assert within.startswith("On the validation data the gap is within the tolerance. ")
    assert "equal_opportunity: gap 0.0400 (0.0300 to 0.0500) against a tolerance of 0.05, not decidable." in within
    assert say(after(0.2), []).startswith("NOT FEASIBLE: no model at the target size met the constraint")
    assert "no other moment of the run was looked at" in say(after(0.2), [], chosen=False)


def test_two_constraints_that_were_met_in_turn_collide() -> None:
    history = [row(0.02, 0.09), row(0.12, 0.01), row(0.06, 0.07)]
    said = say(after(0.06, 0.07), history)
    # The best moment for both is the third: it exceeds the tolerance of .05 by .02.
    assert said.endswith(
        " equal_opportunity and accuracy_floor collide: each was met, never both, the closest moment exceeded one of them "
        "by 0.0200."
    )


def test_one_that_was_never_met_is_no_collision() -> None:
    history = [row(0.02, 0.09), row(0.12, 0.08)]
    said = collisions(after(0.02, 0.09), history)
    met_then = "(and equal_opportunity by 0.0700)"
    assert said == f" accuracy_floor was never met, the closest moment exceeded it by 0.0300 {met_then}."


def test_every_pair_is_looked_at() -> None:
    history = [row(0.0, 0.2, 0.0), row(0.2, 0.0, 0.0), row(0.0, 0.2, 0.2)]
    said = collisions(after(0.0, 0.2, 0.0), history)
    assert "equal_opportunity and accuracy_floor collide" in said
    assert "loss_parity" not in said, "it was met together with either"


def test_only_moments_at_the_target_size_count() -> None:
    history = [row(0.0, 0.0, at_target=False), row(0.2, 0.0), row(0.0, 0.3)]
    assert "exceeded one of them by 0.1500" in collisions(after(0.2, 0.0), history)
    assert collisions(after(0.2, 0.2), history[:1]) == ""


def test_one_constraint_collides_with_nothing() -> None:
    assert collisions(after(0.2), [row(0.2)]) == ""


def test_a_feasible_model_has_no_collisions_to_report() -> None:
    assert "collide" not in say(after(0.01, 0.01), [row(0.0, 0.2), row(0.2, 0.0)])


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "middle", "last"])
def test_an_undefined_gap_meets_nothing_and_hides_nothing(position: int) -> None:
    history = [row(0.01, 0.09), row(0.09, 0.01)]
    history.insert(position, row(math.nan, 0.0))
    said = collisions(after(0.09, 0.01), history)
    assert "collide: each was met, never both, the closest moment exceeded one of them by 0.0400" in said
    assert "nan" not in said
    assert "inf" not in said


def test_a_gap_that_was_never_defined_is_said_to_be_so() -> None:
    said = collisions(after(math.nan, 0.01), [row(math.nan, 0.01), row(math.nan, 0.0)])
    assert said == " equal_opportunity was undefined at every moment."


def test_who_lost_most_against_the_dense_model() -> None:
    dense, pruned = after(shown=rates(f=0.9, m=0.8, x=0.7)), after(shown=rates(f=0.85, m=0.7, x=0.75))
    assert largest_loss(dense, pruned) == " Against the dense model, group m lost most: 0.1000 of accuracy."
    assert largest_loss(pruned, pruned) == ""
    assert largest_loss(after(), after()) == ""


def test_why_there_was_no_other_moment() -> None:
    evaluation = after(0.2)
    assert "no validation data" in message(evaluation, evaluation, [], chosen=False)
    assert "interrupted" in message(evaluation, evaluation, [], chosen=False, validated=True)
