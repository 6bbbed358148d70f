"""Corrections for the number of comparisons."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evidence.many_comparisons import Discoveries, at_false_discovery_rate, at_family_wise_error, t_p_value
from evidence.statistics import Comparison, compare

SAMPLES = st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=3, max_size=8)


def difference(p_value: float, *, sign: int = 1, pairs: int = 5) -> Comparison:
    """A paired difference whose t test has this p-value."""
    quantiles = stats.t(pairs - 1)
    return Comparison(sign * quantiles.isf(p_value / 2) / quantiles.isf(0.025), 1.0, math.nan, pairs)


@given(SAMPLES)
def test_the_p_value_is_that_of_the_t_test_on_the_pairs(samples: list[float]) -> None:
    found = compare(samples, [0.0] * len(samples))
    if len(set(samples)) == 1:
        assert t_p_value(found) == (1.0 if samples[0] == 0 else 0.0)
        return
    # Intervals have the quantiles of a table with three digits.
    assert t_p_value(found) == pytest.approx(stats.ttest_1samp(samples, 0.0).pvalue, rel=5e-3)


def test_one_pair_tells_nothing() -> None:
    assert t_p_value(compare([0.5], [0.1])) == 1.0
    assert t_p_value(compare([], [])) == 1.0


def test_rates_and_errors_of_a_known_family() -> None:
    """Ranks 1 to 5 of level 0.05: the rate allows .01, .02, .03, .04, .05; Holm .01, .0125, .0167, .025, .05."""
    family = [difference(p, sign=sign) for p, sign in ((0.029, -1), (0.004, 1), (0.011, 1), (0.9, 1), (0.6, -1))]
    assert at_false_discovery_rate(family) == Discoveries(5, favourable=2, adverse=1)
    assert at_family_wise_error(family) == Discoveries(5, favourable=2, adverse=0)


@given(st.lists(st.tuples(st.floats(1e-6, 0.999), st.sampled_from((-1, 1))), max_size=12))
def test_both_are_as_their_definitions_have_them(family: list[tuple[float, int]]) -> None:
    differences = [difference(p, sign=sign) for p, sign in family]
    p_values = sorted((t_p_value(item), item.mean > 0) for item in differences)
    total = len(p_values)
    step_up = max((rank for rank, (p, _) in enumerate(p_values, 1) if p <= 0.05 * rank / total), default=0)
    step_down = next((rank for rank, (p, _) in enumerate(p_values) if p > 0.05 / (total - rank)), total)
    for found, told in (
        (at_false_discovery_rate(differences), p_values[:step_up]),
        (at_family_wise_error(differences), p_values[:step_down]),
    ):
        assert found.tests == total
        assert found.favourable == sum(favourable for _, favourable in told)
        assert found.adverse == sum(not favourable for _, favourable in told)
