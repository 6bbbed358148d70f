"""Intervals: published Wilson values, the direct formulas, ties, and coverage by simulation."""

from __future__ import annotations

import math

import pytest
import torch

from fairprune_plugin.fairness import parity
from fairprune_plugin.fairness.counts import RateCounts
from fairprune_plugin.fairness.intervals import Z95, centre_shift, ends, gap_contrast, gap_half_width, wilson
from fairprune_plugin.fairness.rates import accuracy

# Newcombe (Statistics in Medicine, 1998), table I, method 3: score interval without continuity correction.
NEWCOMBE = {
    (81, 263): (0.2553, 0.3662),
    (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0000, 0.1611),
    (1, 29): (0.0061, 0.1718),
}


def table(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def half_width(
    hits: torch.Tensor, totals: torch.Tensor, reference: str | int, sides: parity.Sides = parity.BOTH
) -> torch.Tensor:
    counts = RateCounts([accuracy()] * len(hits), hits.shape[1])
    counts.hits, counts.squares, counts.totals = hits, hits, totals
    rates = counts.values()
    weights = parity.reference_weights(rates, totals, reference)
    return gap_half_width(rates, counts.variances(), weights, reference, sides)


def agresti_caffo(x: float, n: float) -> float:
    p = (x + 1) / (n + 2)
    return p * (1 - p) / (n + 2)


@pytest.mark.parametrize(("counts", "bounds"), NEWCOMBE.items(), ids=str)
def test_wilson_gives_newcombes_table(counts: tuple[int, int], bounds: tuple[float, float]) -> None:
    low, high = wilson(table(counts[0]), table(counts[1]))
    assert (float(low), float(high)) == (pytest.approx(bounds[0], abs=5e-5), pytest.approx(bounds[1], abs=5e-5))


def test_wilson_bounds_solve_the_score_equation() -> None:
    hits, totals = table(3.0, 40.0, 99.0), table(10.0, 80.0, 100.0)
    for bound in wilson(hits, totals):
        distance = (hits / totals - bound).abs()
        torch.testing.assert_close(distance, Z95 * (bound * (1 - bound) / totals).sqrt())


def test_wilson_without_a_trial_knows_nothing() -> None:
    low, high = wilson(table(0.0, 5.0), table(0.0, 5.0))
    assert (float(low[0, 0]), float(high[0, 0])) == (0, 1)
    assert float(low[0, 1]) > 0.5
    assert float(high[0, 1]) == 1


HITS, TOTALS = table(50.0, 9.0, 30.0), table(100.0, 10.0, 50.0)


def test_half_widths_against_the_formulas() -> None:
    extreme = Z95 * math.sqrt(agresti_caffo(9, 10) + agresti_caffo(50, 100))
    assert float(half_width(HITS, TOTALS, parity.PAIRWISE)) == pytest.approx(extreme)
    assert float(half_width(HITS, TOTALS, 0)) == pytest.approx(extreme)
    # Group 1 is the farthest from everybody: F = p₁ − overall = (150/160) p₁ − (100/160) p₀ − (50/160) p₂.
    shares = [(150, 9, 10), (100, 50, 100), (50, 30, 50)]
    overall = Z95 * math.sqrt(sum((share / 160) ** 2 * agresti_caffo(x, n) for share, x, n in shares))
    assert float(half_width(HITS, TOTALS, parity.OVERALL)) == pytest.approx(overall)


@pytest.mark.parametrize("reference", [parity.PAIRWISE, 0, 1], ids=str)
@pytest.mark.parametrize("small_first", [False, True], ids=["large-first", "small-first"])
def test_a_tie_is_as_uncertain_as_its_smallest_group(reference: str | int, small_first: bool) -> None:
    """16 people who are all classified correctly say little, however large the other group is."""
    sizes = (16.0, 10_000.0) if small_first else (10_000.0, 16.0)
    half = float(half_width(table(*sizes), table(*sizes), reference))
    assert half == pytest.approx(Z95 * math.sqrt(agresti_caffo(16, 16) + agresti_caffo(10_000, 10_000)))


def test_a_tie_of_three_names_the_least_certain_pair() -> None:
    sizes = table(1000.0, 16.0, 20.0)
    expected = Z95 * math.sqrt(agresti_caffo(16, 16) + agresti_caffo(20, 20))
    assert float(half_width(sizes, sizes, parity.PAIRWISE)) == pytest.approx(expected)


@pytest.mark.parametrize("reference", [parity.PAIRWISE, parity.OVERALL, 0], ids=str)
def test_unknown_groups(reference: str | int) -> None:
    known = half_width(table(50.0, 0.0, 9.0), table(100.0, 0.0, 10.0), reference)
    alone = half_width(table(50.0, 9.0), table(100.0, 10.0), reference)
    torch.testing.assert_close(known, alone)
    assert math.isnan(half_width(table(50.0, 0.0), table(100.0, 0.0), reference))


def test_half_width_to_an_unknown_group_is_undefined() -> None:
    assert math.isnan(half_width(table(50.0, 0.0, 9.0), table(100.0, 0.0, 10.0), 1))


@pytest.mark.parametrize(
    ("p", "n"), [((0.9, 0.7), (40, 60)), ((0.97, 0.6), (25, 200)), ((0.5, 0.5), (30, 30))], ids=str
)
def test_coverage_of_gap_and_rates(p: tuple[float, float], n: tuple[int, int]) -> None:
    trials = 2000
    generator = torch.Generator().manual_seed(7)
    totals = torch.tensor([n], dtype=torch.float64).expand(trials, 2)
    hits = torch.binomial(totals, torch.tensor([p], dtype=torch.float64).expand(trials, 2), generator=generator)
    rates = hits / totals
    half = half_width(hits, totals, 0)
    difference = rates[:, 1] - rates[:, 0]
    covered = ((difference - (p[1] - p[0])).abs() <= half).double().mean()
    assert 0.93 <= float(covered) < 0.995
    low, high = wilson(hits, totals)
    truth = torch.tensor([p], dtype=torch.float64)
    assert float(((low <= truth) & (truth <= high)).double().mean(0).min()) >= 0.93


class TestOneSided:
    def test_against_itself_only_the_group_counts(self) -> None:
        """Changes against the dense model, whose rates are taken as known."""
        change, variances = table(-0.02, -0.3, 0.4), table(0.01, 0.0004, 0.09)
        weights = torch.zeros_like(change)
        half = gap_half_width(change, variances, weights, parity.ITSELF, parity.BELOW)
        assert float(half) == pytest.approx(Z95 * 0.02), "group 1 lost most"
        assert float(gap_half_width(change, variances, weights, parity.ITSELF)) == pytest.approx(Z95 * 0.3)

    def test_the_most_distant_group_is_sought_on_the_side_that_counts(self) -> None:
        change, variances, shares = table(-0.1, 0.3, 0.0), table(0.01, 0.04, 0.09), table(0.2, 0.2, 0.6)
        below = gap_half_width(change, variances, shares, parity.OVERALL, parity.BELOW)
        expected = Z95 * math.sqrt(0.8**2 * 0.01 + 0.2**2 * 0.04 + 0.6**2 * 0.09)
        assert float(below) == pytest.approx(expected)
        both = gap_half_width(change, variances, shares, parity.OVERALL)
        assert float(both) == pytest.approx(Z95 * math.sqrt(0.2**2 * 0.01 + 0.8**2 * 0.04 + 0.6**2 * 0.09))

    def test_one_group_alone_is_known_against_itself(self) -> None:
        change = table(math.nan, -0.1)
        half = gap_half_width(change, table(math.nan, 0.01), torch.zeros(1, 2).double(), parity.ITSELF, parity.BELOW)
        assert float(half) == pytest.approx(Z95 * 0.1)


@pytest.mark.parametrize("reference", [parity.PAIRWISE, 0], ids=str)
def test_an_unknown_variance_of_a_group_in_the_middle_does_not_matter(reference: str | int) -> None:
    rates, variances = table(0.9, 0.7, 0.5), table(0.01, math.nan, 0.04)
    weights = parity.reference_weights(rates, torch.ones_like(rates), reference)
    assert float(gap_half_width(rates, variances, weights, reference)) == pytest.approx(Z95 * math.sqrt(0.05))
    swapped = table(0.7, 0.9, 0.5)
    weights = parity.reference_weights(swapped, torch.ones_like(rates), reference)
    assert math.isnan(gap_half_width(swapped, variances, weights, parity.PAIRWISE))


def test_coverage_of_an_overall_gap() -> None:
    """Three groups of different size, the farthest one far enough to be the farthest in every draw."""
    trials, p, n = 2000, (0.9, 0.6, 0.85), (200, 60, 400)
    generator = torch.Generator().manual_seed(5)
    totals = torch.tensor([n], dtype=torch.float64).expand(trials, 3)
    hits = torch.binomial(totals, torch.tensor([p], dtype=torch.float64).expand(trials, 3), generator=generator)
    half = half_width(hits, totals, parity.OVERALL)
    weights = totals / totals.sum(1, keepdim=True)
    found = parity.gap(hits / totals, weights, parity.OVERALL)
    truth = sum(pi * ni for pi, ni in zip(p, n, strict=True)) / sum(n) - 0.6
    assert 0.93 <= float(((found - truth).abs() <= half).double().mean()) <= 0.985


class Outcomes:
    """All outcomes of two groups, with the gap's interval of each by every formula."""

    def __init__(self, sizes: tuple[int, int], reference: str | int) -> None:
        self.hits = torch.cartesian_prod(*(torch.arange(n + 1).double() for n in sizes))
        self.totals = torch.tensor(sizes).double().expand_as(self.hits)
        counts = RateCounts([accuracy()] * len(self.hits), 2)
        counts.hits, counts.squares, counts.totals = self.hits, self.hits, self.totals
        rates, variances = counts.values(), counts.variances()
        weights = parity.reference_weights(rates, self.totals, reference)
        half = gap_half_width(rates, variances, weights, reference)
        gap = parity.gap(rates, weights, reference)
        contrast = gap_contrast(rates, variances, weights, reference)
        torch.testing.assert_close((contrast * rates).sum(dim=1), gap)
        shift = centre_shift(*(value[:, None] for value in (contrast, rates, self.totals, variances)))
        self.plain = (gap - half).clamp_min(0), gap + half
        self.low, self.high = ends(gap, gap + shift, half, two_sided=True)

    def chance(self, p: tuple[float, float], of: torch.Tensor) -> float:
        chances = (
            torch.distributions.Binomial(self.totals, torch.tensor(p).double()).log_prob(self.hits).sum(dim=1).exp()
        )
        return float((chances * of).sum())

    def coverage(self, p: tuple[float, float]) -> float:
        truth = abs(p[0] - p[1])
        return self.chance(p, (self.low <= truth + 1e-12) & (self.high >= truth - 1e-12))


@pytest.mark.parametrize("small", [5, 10, 16, 25, 40, 100])
@pytest.mark.parametrize("large", [25, 100, 1000])
def test_exact_coverage_of_a_small_group_beside_a_large_one(small: int, large: int) -> None:
    """Around the estimate alone, 25 beside 1000 people at rates of 0.9 are found unequal by mistake in 8 % of samples."""
    outcomes = Outcomes((small, large), parity.PAIRWISE)
    for p in (0.3, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99):
        for other in (p, p - 0.02, p - 0.1, p - 0.2):
            assert outcomes.coverage((p, other)) >= 0.93, (p, other)
            assert outcomes.coverage((other, p)) >= 0.93, (other, p)


@pytest.mark.parametrize("reference", [parity.OVERALL, 0, 1], ids=str)
def test_exact_coverage_whatever_the_groups_are_compared_with(reference: str | int) -> None:
    outcomes = Outcomes((25, 1000), reference)
    for p in (0.7, 0.8, 0.9, 0.95, 0.98):
        assert outcomes.coverage((p, p)) >= 0.93, p


def test_pseudo_observations_do_not_matter_among_many() -> None:
    outcomes = Outcomes((1000, 1000), parity.PAIRWISE)
    width, plain = outcomes.high - outcomes.low, outcomes.plain[1] - outcomes.plain[0]
    assert outcomes.chance((0.9, 0.85), width) < 1.01 * outcomes.chance((0.9, 0.85), plain)


def test_pseudo_observations_of_two_rates_are_one_of_each_and_of_many_are_shared_out() -> None:
    rates, totals, variances = table(1.0, 0.9), table(25.0, 1000.0), table(26 / 27**3, 0.0)
    two = float(centre_shift(table(1.0, -1.0)[0], rates, totals, variances))
    assert two == pytest.approx((26 / 27 - 901 / 1002) - (1 - 0.9))
    many = torch.ones(20, 2).double()  # the mean of twenty classes, two groups
    of_mean = float(centre_shift(table(1.0, -1.0) / 20 * many, 0.9 * many, table(10.0, 100.0) * many, many))
    part = 2 / 40
    assert of_mean == pytest.approx(part * -0.8 / (10 + 2 * part) - part * -0.8 / (100 + 2 * part))


def test_without_bounds_there_is_nothing_to_add() -> None:
    unbounded = torch.full((1, 1), math.nan)
    assert float(centre_shift(table(1.0, -1.0)[0], table(2.0, 1.0), table(9.0, 9.0), table(0.1, 0.1), unbounded)) == 0


def test_a_difference_that_pseudo_observations_turn_round_may_be_zero() -> None:
    gap, centre, half = table(0.01), table(-0.07), table(0.05)
    low, high = ends(gap, centre, half, two_sided=True)
    assert (float(low), float(high)) == (0, pytest.approx(0.12))
    low, high = ends(gap, centre, half, two_sided=False)
    assert (float(low), float(high)) == (pytest.approx(-0.12), pytest.approx(0.06))
