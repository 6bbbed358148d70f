"""What must not change a verdict: names of groups, order of samples, copies of the data, groups that nobody is in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyFloor,
    AccuracyParity,
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    ExcessAccuracyGap,
    LossParity,
    PredictiveEquality,
)
from fairprune_plugin.fairness.outputs import Outputs
from fairprune_plugin.fairness.verdict import judge
from measured import SPLIT, counted, gaps

NOTIONS: tuple[type[Constraint], ...] = (
    AccuracyParity,
    DegradationParity,
    DemographicParity,
    EqualOpportunity,
    EqualizedOdds,
    ExcessAccuracyGap,
    AccuracyFloor,
    LossParity,
    PredictiveEquality,
)
GROUPS = 4
REFERENCES = st.sampled_from(["pairwise", "overall"])


@dataclass
class Data:
    """A dense and a pruned model's outputs on the same samples, and their groups; groups may be absent."""

    dense: Outputs
    pruned: Outputs
    s: Tensor

    def at(self, index: Tensor) -> Data:
        def take(outputs: Outputs) -> Outputs:
            return Outputs(outputs.logits[index], outputs.targets[index], outputs.num_classes)

        return Data(take(self.dense), take(self.pruned), self.s[index])


@st.composite
def data(draw: st.DrawFn) -> Data:
    classes = draw(st.sampled_from([2, 3]))
    rows = st.tuples(st.integers(0, classes - 1), st.integers(0, GROUPS - 1))
    y, s = (torch.tensor(c) for c in zip(*draw(st.lists(rows, min_size=2, max_size=40)), strict=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    shape = (2, len(y)) if classes == 2 else (2, len(y), classes)
    dense, pruned = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Data(Outputs(dense, y, classes), Outputs(pruned, y, classes), s)


def make(notion: type[Constraint], reference: str, groups: int = GROUPS) -> Constraint:
    return notion(0.1, groups=groups) if notion is AccuracyFloor else notion(0.1, groups=groups, reference=reference)


def found(constraint: Constraint, case: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaps, half widths and strict violations."""
    tracker, counts = counted(constraint, case.pruned, case.s, dense=case.dense)
    return (
        tracker.gaps(counts, SPLIT).numpy(),
        tracker.half_widths(counts, SPLIT).numpy(),
        tracker.strict_violation(counts, SPLIT).numpy(),
    )


EVERY = st.sampled_from(NOTIONS)


@settings(max_examples=80)
@given(notion=EVERY, case=data(), reference=REFERENCES, order=st.permutations(range(GROUPS)))
def test_numbering_the_groups_otherwise(notion, case: Data, reference: str, order: list[int]) -> None:
    constraint, new_id = make(notion, reference), torch.tensor(order)
    gap, half, violation = found(constraint, case)
    other_gap, other_half, other_violation = found(constraint, Data(case.dense, case.pruned, new_id[case.s]))
    np.testing.assert_allclose(other_gap, gap, atol=1e-12)
    np.testing.assert_allclose(other_half, half, atol=1e-9)
    np.testing.assert_allclose(other_violation[:, :, order], violation, atol=1e-12)


@settings(max_examples=80)
@given(notion=EVERY, case=data(), reference=REFERENCES, seed=st.integers(0, 99))
def test_the_order_of_samples(notion, case: Data, reference: str, seed: int) -> None:
    order = torch.randperm(len(case.s), generator=torch.Generator().manual_seed(seed))
    for one, other in zip(
        found(make(notion, reference), case), found(make(notion, reference), case.at(order)), strict=True
    ):
        np.testing.assert_allclose(other, one, atol=1e-12)


@settings(max_examples=80)
@given(notion=EVERY, case=data(), reference=REFERENCES, copies=st.integers(2, 4))
def test_copies_of_the_data_change_certainty_only(notion, case: Data, reference: str, copies: int) -> None:
    gap, half, violation = found(make(notion, reference), case)
    more_gap, more_half, more_violation = found(
        make(notion, reference), case.at(torch.arange(len(case.s)).repeat(copies))
    )
    np.testing.assert_allclose(more_gap, gap, atol=1e-12)
    np.testing.assert_allclose(more_violation, violation, atol=1e-12)
    if notion is LossParity:
        return  # a group of one has no variance until it is copied, and the widest among equals may change
    if half.size and not np.isnan(half).any():
        assert (more_half < half).all()


@settings(max_examples=80)
@given(notion=EVERY, case=data(), reference=REFERENCES)
def test_a_group_that_nobody_is_in(notion, case: Data, reference: str) -> None:
    gap, half, violation = found(make(notion, reference), case)
    more_gap, more_half, more_violation = found(make(notion, reference, GROUPS + 1), case)
    np.testing.assert_array_equal(more_gap, gap)
    np.testing.assert_array_equal(more_half, half)
    np.testing.assert_array_equal(more_violation[:, :, :GROUPS], violation)
    assert (more_violation[:, :, GROUPS] == 0).all()


@settings(max_examples=80)
@given(notion=EVERY, case=data(), reference=REFERENCES)
def test_violations_and_gap_say_the_same(notion, case: Data, reference: str) -> None:
    constraint = make(notion, reference)
    gap, _, violation = found(constraint, case)
    scale = 2 if constraint.reference_key == "pairwise" else 1
    for row, value in enumerate(gap):
        if np.isnan(value):
            assert (violation[:, row] == 0).all()
        elif value > 0.1:
            assert violation[:, row].max() * scale == pytest.approx(value - 0.1)
        else:
            assert violation[:, row].max() <= 1e-12


@settings(max_examples=80)
@given(notion=EVERY, case=data(), reference=REFERENCES, size=st.integers(1, 12))
def test_a_minimum_size_is_leaving_out_the_small_groups(notion, case: Data, reference: str, size: int) -> None:
    """For notions without a condition: as if the samples of small groups were not there."""
    assume(notion not in (EqualOpportunity, EqualizedOdds, PredictiveEquality))
    plain = make(notion, reference)
    guarded = type(plain)(0.1, groups=GROUPS, reference=plain.reference, min_group_size=size)
    large = case.s.bincount(minlength=GROUPS)[case.s] >= size
    gap = found(guarded, case)[0]
    if not large.any():
        assert np.isnan(gap).all()
        return
    np.testing.assert_allclose(gap, found(plain, case.at(large.nonzero().reshape(-1)))[0], atol=1e-12)


@given(case=data(), reference=REFERENCES)
def test_equalized_odds_is_both_of_its_halves(case: Data, reference: str) -> None:
    odds, opportunity, predictive = (
        gaps(make(notion, reference), case.pruned, case.s)
        for notion in (EqualizedOdds, EqualOpportunity, PredictiveEquality)
    )
    np.testing.assert_array_equal(odds[0::2], opportunity)
    np.testing.assert_array_equal(odds[1::2], predictive)


@given(case=data())
def test_the_difference_lies_between_one_and_two_distances_from_everybody(case: Data) -> None:
    for notion in (AccuracyParity, EqualizedOdds, LossParity):
        pairwise = gaps(make(notion, "pairwise"), case.pruned, case.s)
        overall = gaps(make(notion, "overall"), case.pruned, case.s)
        known = ~pairwise.isnan()
        assert torch.equal(known, ~overall.isnan())
        assert (overall[known] <= pairwise[known] + 1e-9).all()
        assert (pairwise[known] <= 2 * overall[known] + 1e-9).all()


@given(case=data(), reference=REFERENCES)
def test_a_model_against_itself_has_lost_nothing(case: Data, reference: str) -> None:
    for notion in (DegradationParity, ExcessAccuracyGap, AccuracyFloor):
        gap, _, violation = found(make(notion, reference), Data(case.dense, case.dense, case.s))
        np.testing.assert_allclose(gap[~np.isnan(gap)], 0, atol=1e-12)
        assert violation.max() <= 0


@given(case=data(), tolerance=st.floats(0, 1), wider=st.floats(0, 1))
def test_a_wider_tolerance_never_makes_a_verdict_worse(case: Data, tolerance: float, wider: float) -> None:
    order = {"violated": 0, "not decidable": 1, "satisfied": 2}
    small, large = sorted((tolerance, wider))
    verdicts = [judge(*counted(EqualizedOdds(t, groups=GROUPS), case.pruned, case.s), SPLIT) for t in (small, large)]
    assert order[verdicts[0].status] <= order[verdicts[1].status]
    assert verdicts[0].feasible <= verdicts[1].feasible
    assert verdicts[0].upper_excess >= verdicts[1].upper_excess
