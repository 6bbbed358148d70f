"""The algebra of parity against Fairlearn's differences and against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from fairprune_plugin.fairness import parity

NAN = float("nan")
RATE = st.integers(0, 20).map(lambda k: k / 20)


def rates_of(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def gap_of(rates: torch.Tensor, reference: str | int, totals: torch.Tensor | None = None) -> float:
    totals = (~rates.isnan()).double() if totals is None else totals
    return float(parity.gap(rates, parity.reference_weights(rates, totals, reference), reference))


@st.composite
def group_results(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Right answers and samples of each of 2 to 5 groups."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=2, max_size=5))
    return [(draw(st.integers(0, size)), size) for size in sizes]


@given(group_results())
def test_gaps_are_fairlearns_differences(results: list[tuple[int, int]]) -> None:
    right = [i < hits for hits, size in results for i in range(size)]
    s = [group for group, (_, size) in enumerate(results) for _ in range(size)]
    frame = MetricFrame(metrics=accuracy_score, y_true=np.ones(len(s)), y_pred=np.array(right), sensitive_features=s)
    hits, totals = torch.tensor(results, dtype=torch.float64).T[:, None]
    rates = hits / totals
    assert gap_of(rates, parity.PAIRWISE, totals) == pytest.approx(frame.difference(method="between_groups"), abs=1e-9)
    assert gap_of(rates, parity.OVERALL, totals) == pytest.approx(frame.difference(method="to_overall"), abs=1e-9)
    for group in range(len(results)):
        expected = (rates - rates[0, group]).abs().max()
        assert gap_of(rates, group, totals) == pytest.approx(float(expected), abs=1e-9)


@given(st.lists(RATE, min_size=2, max_size=5), RATE)
def test_pairwise_deviations_within_half_iff_range_within_tolerance(values: list[float], tolerance: float) -> None:
    rates = rates_of(*values)
    weights = parity.reference_weights(rates, torch.ones_like(rates), parity.PAIRWISE)
    both = parity.violations(parity.deviations(rates, weights), tolerance, parity.PAIRWISE)
    spread = max(values) - min(values)
    if abs(spread - tolerance) > 1e-9:  # rates on a grid: apart by a rounding error or by a twentieth
        assert bool((both <= 0).all()) == (spread <= tolerance)
    else:
        assert float(both.max()) == pytest.approx(0, abs=1e-12)


@given(st.lists(RATE, min_size=2, max_size=5), st.sampled_from([parity.PAIRWISE, parity.OVERALL, 0, 1]))
def test_deviation_is_linear_with_the_same_weights(values: list[float], reference: str | int) -> None:
    rates = rates_of(*values)
    weights = parity.reference_weights(rates, torch.arange(1.0, len(values) + 1).double()[None], reference)
    assert float(weights.sum()) == pytest.approx(1)
    moved = 3 * rates + 0.25
    torch.testing.assert_close(parity.deviations(moved, weights), 3 * parity.deviations(rates, weights))


def test_violation_signs() -> None:
    rates = rates_of(0.9, 0.5)
    weights = parity.reference_weights(rates, torch.ones_like(rates), 1)
    both = parity.violations(parity.deviations(rates, weights), 0.1, 1)
    # [+F − τ, −F − τ]: group 0 is 0.4 above the reference, group 1 is the reference.
    torch.testing.assert_close(both[:, 0], torch.tensor([[0.3, -0.1], [-0.5, -0.1]], dtype=torch.float64))
    pairwise = parity.reference_weights(rates, torch.ones_like(rates), parity.PAIRWISE)
    both = parity.violations(parity.deviations(rates, pairwise), 0.1, parity.PAIRWISE)
    # The middle is 0.7; each side may be off by τ/2.
    torch.testing.assert_close(both[:, 0], torch.tensor([[0.15, -0.25], [-0.25, 0.15]], dtype=torch.float64))


def test_unknown_groups_have_no_deviation_and_no_weight() -> None:
    rates = rates_of(0.9, NAN, 0.5)
    for reference, middle in ((parity.PAIRWISE, 0.7), (parity.OVERALL, 0.8), (2, 0.5)):
        totals = torch.tensor([[30.0, 0.0, 10.0]], dtype=torch.float64)
        weights = parity.reference_weights(rates, totals, reference)
        expected = torch.tensor([[0.9 - middle, NAN, 0.5 - middle]], dtype=torch.float64)
        assert float(weights[0, 1]) == 0
        torch.testing.assert_close(parity.deviations(rates, weights), expected, equal_nan=True)


@pytest.mark.parametrize("reference", [parity.PAIRWISE, parity.OVERALL, 0], ids=str)
def test_gap_of_fewer_than_two_groups_is_undefined(reference: str | int) -> None:
    assert math.isnan(gap_of(rates_of(0.9, NAN, NAN), reference))
    assert math.isnan(gap_of(rates_of(NAN, NAN), reference))
    assert not math.isnan(gap_of(rates_of(0.9, NAN, 0.2), reference))


def test_gap_to_an_unknown_reference_group_is_undefined() -> None:
    assert math.isnan(gap_of(rates_of(0.9, NAN, 0.2), 1))


def test_rates_are_judged_independently() -> None:
    rates = torch.tensor([[0.9, 0.5, NAN], [0.2, 0.2, 0.2], [NAN, NAN, 0.3]], dtype=torch.float64)
    weights = parity.reference_weights(rates, torch.ones_like(rates), parity.PAIRWISE)
    gaps = parity.gap(rates, weights, parity.PAIRWISE).tolist()
    assert gaps[:2] == pytest.approx([0.4, 0.0])
    assert math.isnan(gaps[2])


class TestOneSided:
    """Changes against the dense model: only losses count, and nobody needs a second group to lose."""

    CHANGES = rates_of(-0.1, 0.3, -0.02)

    def test_below_looks_at_losses_only(self) -> None:
        weights = parity.reference_weights(self.CHANGES, torch.ones_like(self.CHANGES), parity.ITSELF)
        assert (weights == 0).all()
        below = parity.violations(self.CHANGES, 0.05, parity.ITSELF, parity.BELOW)
        torch.testing.assert_close(below, torch.tensor([[[0.05, -0.35, -0.03]]], dtype=torch.float64))
        assert float(parity.gap(self.CHANGES, weights, parity.ITSELF, parity.BELOW)) == pytest.approx(0.1)
        assert float(parity.gap(self.CHANGES, weights, parity.ITSELF)) == pytest.approx(0.3)

    def test_a_gap_is_negative_if_everybody_gains(self) -> None:
        gains = rates_of(0.1, 0.2)
        assert float(parity.gap(gains, torch.zeros_like(gains), parity.ITSELF, parity.BELOW)) == pytest.approx(-0.1)

    def test_one_known_group_is_enough_and_none_is_not(self) -> None:
        for values, expected in (((NAN, -0.2), 0.2), ((NAN, NAN), NAN)):
            rates = rates_of(*values)
            found = float(parity.gap(rates, torch.zeros_like(rates), parity.ITSELF, parity.BELOW))
            assert found == pytest.approx(expected, nan_ok=True)

    def test_an_unknown_group_has_no_distance_to_itself(self) -> None:
        known = parity.defined(rates_of(NAN, -0.2), torch.zeros(1, 2), parity.ITSELF)
        assert known.tolist() == [[False, True]]

    @given(st.lists(RATE, min_size=2, max_size=5), st.sampled_from([parity.PAIRWISE, parity.OVERALL, 0, 1]))
    def test_both_sides_are_the_larger_one(self, values: list[float], reference: str | int) -> None:
        rates = rates_of(*values)
        weights = parity.reference_weights(rates, torch.ones_like(rates), reference)
        below, above = (parity.gap(rates, weights, reference, (side,)) for side in (-1, 1))
        assert float(parity.gap(rates, weights, reference)) == float(torch.maximum(below, above))


def test_a_tolerance_of_its_own_for_each_rate() -> None:
    deviation = torch.tensor([[0.1, -0.1], [0.1, -0.1]], dtype=torch.float64)
    both = parity.violations(deviation, torch.tensor([[0.0], [0.3]]), parity.PAIRWISE)
    torch.testing.assert_close(both[0], torch.tensor([[0.1, -0.1], [-0.05, -0.25]], dtype=torch.float64))
