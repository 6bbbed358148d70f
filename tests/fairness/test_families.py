"""Averages over classes: by hand, with classes that a group lacks, and their variance by simulation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.fairness.families import Families

NAN = math.nan
RATES = torch.tensor([[0.2, 0.4, 0.9], [0.6, 0.8, 0.1], [0.5, 0.5, 0.0]], dtype=torch.float64)
ALL = torch.ones(3, 3, dtype=torch.bool)


def known(*missing: tuple[int, int]) -> torch.Tensor:
    out = ALL.clone()
    for rate, group in missing:
        out[rate, group] = False
    return out


def test_one_family_and_two() -> None:
    whole = Families(["f"], [0, 0, 0]).mean(RATES, ALL)
    torch.testing.assert_close(whole, torch.tensor([[1.3, 1.7, 1.0]], dtype=torch.float64) / 3)
    crossed = Families(["f", "g"], [0, 1, 0]).mean(RATES, ALL)
    torch.testing.assert_close(crossed, torch.tensor([[0.35, 0.45, 0.45], [0.6, 0.8, 0.1]], dtype=torch.float64))


def test_a_class_one_group_lacks_counts_for_nobody() -> None:
    rates = RATES.masked_fill(~known((1, 2)), NAN)
    mean = Families(["f"], [0, 0, 0]).mean(rates, known((1, 2)))
    torch.testing.assert_close(mean, torch.tensor([[0.35, 0.45, 0.45]], dtype=torch.float64))


def test_a_group_without_any_rate_takes_no_class_away() -> None:
    missing = known((0, 1), (1, 1), (2, 1))
    mean = Families(["f"], [0, 0, 0]).mean(RATES, missing, undefined=NAN)
    expected = torch.tensor([[1.3 / 3, NAN, 1.0 / 3]], dtype=torch.float64)
    torch.testing.assert_close(mean, expected, equal_nan=True)


def test_no_class_in_common_is_undefined() -> None:
    missing = known((0, 0), (1, 1), (2, 2))
    assert Families(["f"], [0, 0, 0]).mean(RATES, missing, undefined=NAN).isnan().all()
    assert (Families(["f"], [0, 0, 0]).mean(RATES, missing) == 0).all()


def test_families_of_one_pass_through() -> None:
    families = Families(["a", "b", "c"], [0, 1, 2])
    assert families.mean(RATES, known((0, 0))) is RATES
    assert families.mean(RATES, known((0, 0)), undefined=NAN).isnan().sum() == 1
    assert families.variance(RATES, ALL) is RATES
    assert families.total(RATES) is RATES


def test_gradients_reach_usable_rates_only_and_are_finite() -> None:
    rates = RATES.masked_fill(~known((1, 2)), NAN).requires_grad_()
    Families(["f"], [0, 0, 0]).mean(rates, known((1, 2))).sum().backward()
    assert rates.grad is not None
    assert torch.equal(rates.grad, torch.tensor([[0.5] * 3, [0.0] * 3, [0.5] * 3], dtype=torch.float64))


def test_variance_is_that_of_a_mean_of_independent_rates() -> None:
    deviations = torch.tensor([[0.1], [0.2], [0.05]], dtype=torch.float64)
    families = Families(["f"], [0, 0, 0])
    draws = torch.randn(3, 200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * deviations
    variance = families.variance(deviations.square(), torch.ones(3, 1, dtype=torch.bool))
    assert float(variance) == pytest.approx(float(draws.mean(0).var()), rel=0.02)
    assert families.variance(deviations.square(), torch.zeros(3, 1, dtype=torch.bool)).isnan().all()


def test_totals_add_up() -> None:
    assert Families(["f", "g"], [0, 1, 0]).total(RATES * 10).tolist() == [
        pytest.approx([7.0, 9.0, 9.0]),
        pytest.approx([6.0, 8.0, 1.0]),
    ]


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=3, max_size=3))
def test_against_loops(defined: list[list[bool]]) -> None:
    rates = torch.arange(12, dtype=torch.float64).reshape(3, 4) / 12
    mean = Families(["f"], [0, 0, 0]).mean(rates, torch.tensor(defined), undefined=NAN)
    in_play = [g for g in range(4) if any(defined[r][g] for r in range(3))]
    usable = [r for r in range(3) if all(defined[r][g] for g in in_play)]
    for g in range(4):
        if g in in_play and usable:
            assert float(mean[0, g]) == pytest.approx(sum(float(rates[r, g]) for r in usable) / len(usable))
        else:
            assert math.isnan(mean[0, g])
