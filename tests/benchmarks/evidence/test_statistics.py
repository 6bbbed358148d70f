"""Paired comparisons against numpy, and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.statistics import AHEAD, ALIKE, BEHIND, TRADES, Comparison, compare, sign_flip_p_value, standing

VALUES = st.lists(st.floats(-1, 1, allow_nan=False), min_size=2, max_size=8)


@given(VALUES, st.floats(-0.5, 0.5, allow_nan=False))
def test_a_shift_of_all_pairs_is_its_mean(values: list[float], shift: float) -> None:
    found = compare([value + shift for value in values], values)
    assert found.mean == pytest.approx(shift, abs=1e-9)
    assert found.pairs == len(values)


@given(VALUES)
def test_the_p_value_is_the_share_of_sign_flips(values: list[float]) -> None:
    array = np.array(values)
    flips = np.array(list(itertools.product((1, -1), repeat=len(values))))
    expected = np.mean(np.abs(flips @ array) >= abs(array.sum()) - 1e-12)
    assert sign_flip_p_value(values) == pytest.approx(expected, abs=2 / len(flips))


def test_by_hand() -> None:
    found = compare([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert (found.mean, found.pairs) == (pytest.approx(0.1), 3)
    assert found.p_value == pytest.approx(2 / 8)  # all signs alike: two of eight
    assert found.decided
    assert "* (p 0.25)" in str(found)


def test_undefined_pairs_are_left_out() -> None:
    found = compare([0.5, math.nan, 0.7], [0.4, 0.5, 0.5])
    assert found.pairs == 2
    assert str(compare([math.nan], [0.1])) == "–"


@pytest.mark.parametrize(
    ("accuracy", "excess", "expected"),
    [
        (0.02, 0.0, AHEAD),
        (0.0, -0.02, AHEAD),
        (0.02, -0.02, AHEAD),
        (-0.02, 0.0, BEHIND),
        (0.0, 0.02, BEHIND),
        (0.02, 0.02, TRADES),
        (-0.02, -0.02, TRADES),
        (0.005, -0.005, ALIKE),  # neither interval excludes zero
    ],
)
def test_standing_needs_a_decided_difference(accuracy: float, excess: float, expected: str) -> None:
    first, second = (Comparison(mean, half=0.01, p_value=0.06, pairs=5) for mean in (accuracy, excess))
    assert standing(first, second) == expected
