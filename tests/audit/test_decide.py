"""Verdicts, and the sample size that decides: more of the same data must decide, and not before."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from audit_data import binary
from hypothesis import assume, given
from hypothesis import strategies as st

from fairprune_plugin import AccuracyParity, DemographicParity, EqualOpportunity, audit_predictions
from fairprune_plugin.audit.decide import AuditVerdict, needed_samples
from fairprune_plugin.audit.gaps import Comparisons, Gaps
from fairprune_plugin.errors import FairPruneWarning


def verdict(right: tuple[int, int], n: int, tolerance: float, times: int = 1) -> AuditVerdict:
    values = torch.cat([(torch.arange(n) < hits).repeat(times) for hits in right])
    s = torch.arange(2).repeat_interleave(n * times)
    y = torch.arange(len(s)) % 2
    logits = torch.where(values == (y == 1), 1.0, -1.0)
    constraint = AccuracyParity(tolerance, groups=("f", "m"))
    return audit_predictions(logits, y, s, constraint, bootstrap=200).verdicts[0]


@pytest.mark.parametrize(
    ("right", "n", "tolerance", "status"),
    [
        ((9000, 8990), 10_000, 0.05, "met"),
        ((9000, 8000), 10_000, 0.05, "violated"),
        ((90, 89), 100, 0.05, "not decidable"),
        ((90, 80), 100, 0.05, "not decidable"),
        ((16, 16), 16, 0.05, "not decidable"),
    ],
)
def test_status(right: tuple[int, int], n: int, tolerance: float, status: str) -> None:
    got = verdict(right, n, tolerance)
    assert got.status == status
    assert got.within == (abs(right[0] - right[1]) / n <= tolerance)
    assert (got.needed is None) == (status != "not decidable")


@pytest.mark.parametrize("right", [(90, 88), (90, 78)], ids=["to-met", "to-violated"])
def test_the_needed_samples_decide_and_fewer_do_not(right: tuple[int, int]) -> None:
    now = verdict(right, 100, 0.06)
    needed = now.needed
    assert now.status == "not decidable"
    assert needed is not None
    assert needed.factor > 2
    assert [(name, n) for name, n, _ in needed.groups] == [("f", 100), ("m", 100)]
    assert all(then == math.ceil(n * needed.factor) for _, n, then in needed.groups)
    decided = "met" if right == (90, 88) else "violated"
    assert verdict(right, 100, 0.06, math.ceil(1.15 * needed.factor)).status == decided
    assert verdict(right, 100, 0.06, math.floor(0.8 * needed.factor)).status == "not decidable"


def test_no_number_of_samples_decides_a_tie_with_the_tolerance() -> None:
    logits, y, s = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, -1]), torch.ones(8).long(), torch.arange(2).repeat_interleave(4)
    report = audit_predictions(logits, y, s, AccuracyParity(0.25, groups=("f", "m")), bootstrap=100)
    needed = report.verdicts[0].needed
    assert needed is not None
    assert needed.factor == math.inf
    assert needed.groups == (("f", 4, None), ("m", 4, None))
    assert "no number of samples decides" in report.to_markdown()
    assert report.to_dict()["verdicts"][0]["needed"]["factor"] is None


def _gaps(differences: list[float], errors: list[float], shifts: list[float] | None = None) -> Gaps:
    groups = tuple((k,) for k in range(len(differences)))
    centres = np.array(differences) + np.array(shifts or [0.0] * len(differences))
    item = Comparisons("accuracy", np.array(differences), centres, np.array(errors), groups)
    totals = np.full((1, len(differences)), 100.0)
    return Gaps((item,), 2.0, totals, totals, True, np.zeros(1), np.zeros((1, 1)))


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0.001, 0.1)), min_size=1, max_size=6),
    st.floats(0, 0.3),
)
def test_needed_factor_is_the_smallest_that_decides(entries: list[tuple[float, float]], tolerance: float) -> None:
    gaps = _gaps([d for d, _ in entries], [e for _, e in entries])
    needed = needed_samples(gaps, tolerance, tuple("abcdef"))
    assert needed is not None

    def decided(factor: float) -> bool:
        low = max(d - 2 * e / math.sqrt(factor) for d, e in entries)
        high = max(d + 2 * e / math.sqrt(factor) for d, e in entries)
        return low > tolerance or high <= tolerance

    if needed.factor > 1e6:
        assert not decided(1e5)
    else:
        assert decided(1.001 * needed.factor)
        assert not decided(0.999 * needed.factor)


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0.001, 0.1), st.floats(-1, 1)), min_size=1, max_size=6),
    st.floats(0, 0.3),
)
def test_the_needed_factor_counts_what_pseudo_observations_shift(entries: list[Any], tolerance: float) -> None:
    entries = [(d, e, part * e) for d, e, part in entries]
    needed = needed_samples(_gaps(*map(list, zip(*entries, strict=True))), tolerance, tuple("abcdef"))
    assert needed is not None
    assume(1.01 < needed.factor < 1e6)

    def decided(factor: float) -> bool:
        halves = [2 * e / math.sqrt(factor) for _, e, _ in entries]
        centres = [abs(d + shift / factor) for d, _, shift in entries]
        gaps = [d for d, _, _ in entries]
        low = max(min(d, c) - h for d, c, h in zip(gaps, centres, halves, strict=True))
        high = max(max(d, c) + h for d, c, h in zip(gaps, centres, halves, strict=True))
        return low > tolerance or high <= tolerance

    assert decided(1.001 * needed.factor)
    assert not decided(0.999 * needed.factor)


def test_no_comparison_no_number() -> None:
    assert needed_samples(_gaps([], []), 0.1, ()) is None


def test_small_groups_are_reported_and_not_judged() -> None:
    logits, y, s, _ = binary(400, groups=3)
    rows = (s != 2) | (torch.arange(400) < 40)
    constraint = AccuracyParity(0.3, groups=("a", "b", "c"), min_group_size=50)
    report = audit_predictions(logits[rows], y[rows], s[rows], constraint, bootstrap=100)
    got = report.verdicts[0]
    assert "accuracy of c rests on" in got.notes[0]
    assert got.status == "met"
    assert "c" not in got.groups
    assert report.measure("accuracy", "c").samples < 50


def test_floor_without_a_reference_is_left_open_and_says_why() -> None:
    logits, y, s, reference = binary(400)
    constraint = EqualOpportunity(1.0, floor=0.5)
    with pytest.warns(FairPruneWarning, match=r"floor=0\.5 of equal_opportunity compares with the dense model.*none"):
        alone = audit_predictions(logits, y, s, constraint, bootstrap=100)
    assert [v.status for v in alone.verdicts] == ["met", "not decidable"]
    assert "pass reference_model" in alone.verdicts[1].notes[0]
    assert alone.status == "not decidable"
    both = audit_predictions(logits, y, s, constraint, reference, bootstrap=100)
    assert [v.status for v in both.verdicts] == ["met", "met"]


def test_constraints_about_different_attributes() -> None:
    logits, y, s, _ = binary(400)
    sensitive = {"sex": s, "age": torch.arange(400) % 3}
    constraints = [AccuracyParity(0.5, groups={"sex": 2}), DemographicParity(0.5, groups={"age": None})]
    report = audit_predictions(logits, y, sensitive, constraints, bootstrap=100)
    assert [v.attribute for v in report.verdicts] == ["sex", "age"]
    assert [g.attribute for g in report.groupings] == ["sex", "age"]
    assert report.groupings[1].groups == ("age=0", "age=1", "age=2")
