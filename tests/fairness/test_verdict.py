"""Verdicts follow from every gap and its interval."""

from __future__ import annotations

import math

import pytest
import torch

from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyParity,
    EqualizedOdds,
    EqualOpportunity,
    LossParity,
)
from fairprune_plugin.fairness.intervals import Z95, gap_half_width
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.tracker import ConstraintTracker
from fairprune_plugin.fairness.verdict import SATISFIED, UNDECIDABLE, VIOLATED, Verdict, judge


def verdict(constraint: Constraint, hits: list[list[float]], totals: list[list[float]]) -> Verdict:
    tracker = ConstraintTracker(constraint, Task(2), MultiplierConfig())
    counts = tracker.new_counts()
    counts.hits, counts.totals = (torch.tensor(t, dtype=torch.float64) for t in (hits, totals))
    return judge(tracker, counts, "test")


@pytest.mark.parametrize(
    ("hits", "total", "feasible", "status"),
    [
        ((9000, 8990), 10_000, True, SATISFIED),
        ((9000, 8000), 10_000, False, VIOLATED),
        ((90, 89), 100, True, UNDECIDABLE),
        ((90, 80), 100, False, UNDECIDABLE),
        ((16, 16), 16, True, UNDECIDABLE),
    ],
    ids=["satisfied", "violated", "small-feasible", "small-infeasible", "tie-of-16-people"],
)
def test_status(hits: tuple[int, int], total: int, feasible: bool, status: str) -> None:
    out = verdict(AccuracyParity(0.05), [[float(h) for h in hits]], [[total, total]])
    assert (out.feasible, out.status) == (feasible, status)
    assert out.gap == pytest.approx(abs(hits[0] - hits[1]) / total)
    assert (out.constraint, out.rate, out.tolerance) == ("accuracy_parity", "accuracy", 0.05)


def test_interval_is_that_of_the_worst_rate() -> None:
    hits, totals = [[900.0, 850.0], [100.0, 300.0]], [[1000.0, 1000.0], [1000.0, 1000.0]]
    out = verdict(EqualizedOdds(0.1), hits, totals)
    assert out.rate == "false_positive_rate[1]"
    assert out.gap == pytest.approx(0.2)
    rates = torch.tensor(hits) / torch.tensor(totals)
    p = (rates * 1000 + 1) / 1002
    halves = gap_half_width(rates, p * (1 - p) / 1002, torch.full((2, 2), 0.5), "pairwise")
    assert out.half_width == pytest.approx(float(halves[1]), rel=1e-6)
    assert out.upper == pytest.approx(out.gap + out.half_width)


def test_satisfied_needs_every_rate_and_not_only_the_one_with_the_largest_gap() -> None:
    large = verdict(EqualizedOdds(0.05), [[900_000, 891_000], [5000, 5000]], [[1_000_000] * 2, [10_000] * 2])
    assert large.status == SATISFIED
    # The true positive rates still have the largest gap; the false positive rates now rest on ten people each.
    small = verdict(EqualizedOdds(0.05), [[900_000, 891_000], [5, 5]], [[1_000_000] * 2, [10] * 2])
    assert small.rate == "true_positive_rate[1]"
    assert (small.feasible, small.status) == (True, UNDECIDABLE)


def test_violated_by_any_rate() -> None:
    # The largest gap (.2) rests on ten people, the smaller one (.1) on many.
    out = verdict(EqualizedOdds(0.05), [[9, 7], [5000, 4000]], [[10, 10], [10_000, 10_000]])
    assert out.rate == "true_positive_rate[1]"
    assert (out.feasible, out.status) == (False, VIOLATED)


def test_undefined_gap_is_neither_feasible_nor_decidable() -> None:
    out = verdict(EqualOpportunity(0.5), [[5, 0]], [[10, 0]])
    assert math.isnan(out.gap)
    assert (out.feasible, out.status) == (False, UNDECIDABLE)
    named = verdict(EqualOpportunity(0.5, groups=3, reference=2), [[5, 5, 0]], [[10, 10, 0]])
    assert math.isnan(named.gap)
    assert not named.feasible


def test_one_undefined_rate_leaves_the_verdict_open() -> None:
    out = verdict(EqualizedOdds(0.5), [[5, 0], [5000, 5000]], [[10, 0], [10_000, 10_000]])
    assert out.rate == "false_positive_rate[1]"
    assert out.status == UNDECIDABLE
    worse = verdict(EqualizedOdds(0.1), [[5, 0], [5000, 9000]], [[10, 0], [10_000, 10_000]])
    assert worse.status == VIOLATED


def test_a_group_without_a_rate_keeps_the_verdict_from_being_satisfied() -> None:
    """Two thousand samples each of two groups agree; of a third one nothing is known."""
    for least, status in ((0, UNDECIDABLE), (1, SATISFIED)):
        constraint = AccuracyParity(0.1, groups=3, min_group_size=least)
        tracker = ConstraintTracker(constraint, Task(2), MultiplierConfig())
        counts = tracker.new_counts()
        counts.update(Outputs.parse(torch.ones(4000), torch.ones(4000)), torch.arange(4000) % 2)
        assert judge(tracker, counts, "test").status == status


class TestUpperBound:
    def test_it_is_that_of_the_rate_whose_bound_is_highest(self) -> None:
        # The true positive rates have the larger gap (.1), the false positive rates the wider interval.
        out = verdict(EqualizedOdds(0.05), [[9000, 8000], [5, 5]], [[10_000, 10_000], [10, 10]])
        assert out.rate == "true_positive_rate[1]"
        p = 6 / 12
        wide = Z95 * math.sqrt(2 * p * (1 - p) / 12)
        assert out.upper == pytest.approx(wide)
        assert out.upper > out.gap + out.half_width
        assert (out.excess, out.upper_excess) == (pytest.approx(0.05), pytest.approx(wide - 0.05))

    def test_it_is_unknown_if_any_gap_is(self) -> None:
        out = verdict(EqualizedOdds(0.5), [[5, 0], [5000, 5000]], [[10, 0], [10_000, 10_000]])
        assert math.isnan(out.upper)
        assert out.excess == 0
        assert out.upper_excess == math.inf


def test_a_rate_that_nobody_has_leaves_the_constraint_unmet() -> None:
    """One group has no positives: the gap of the other rate alone says nothing about equalized odds."""
    hits, totals = [[9, 0], [1, 1]], [[10, 0], [10, 10]]
    found = verdict(EqualizedOdds(0.05), hits, totals)
    assert (found.gap, found.feasible, found.status) == (0.0, False, UNDECIDABLE)
    assert verdict(EqualizedOdds(0.05, min_group_size=1), hits, totals).feasible  # small groups are let be


@pytest.mark.parametrize("reference", [None, "overall", 1], ids=str)
def test_twenty_five_without_an_error_do_not_violate(reference: str | int | None) -> None:
    """Fisher's exact test of 25 of 25 against 900 of 1000 has a p-value of 0.16."""
    options = {} if reference is None else {"reference": reference}
    out = verdict(AccuracyParity(0.02, **options), [[25, 900]], [[25, 1000]])  # type: ignore[arg-type]
    assert out.status == UNDECIDABLE
    assert out.gap - out.half_width > 0.02  # what margins and choices count in is as it was
    assert out.upper == out.gap + out.half_width
    assert (out.low, out.high) == (0.0, pytest.approx(out.upper))


def test_the_ends_of_a_mean_without_bounds_are_around_it() -> None:
    constraint = LossParity(0.1)
    tracker = ConstraintTracker(constraint, Task(2), MultiplierConfig())
    counts = tracker.new_counts()
    counts.update(Outputs.parse(torch.linspace(-3, 1, 40), torch.ones(40)), (torch.arange(40) > 9).long())
    out = judge(tracker, counts, "test")
    assert (out.low, out.high) == (pytest.approx(out.gap - out.half_width), pytest.approx(out.gap + out.half_width))


def test_an_undefined_gap_has_no_ends() -> None:
    out = verdict(EqualOpportunity(0.5), [[5, 0]], [[10, 0]])
    assert math.isnan(out.low)
    assert math.isnan(out.high)
