"""The bootstrap: the right distribution, by cells and by samples, and an interval that covers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fairprune_plugin.audit import bootstrap
from fairprune_plugin.audit.bootstrap import basic_interval, resampled_sums


def moments(rows: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    sums = resampled_sums(rows, 4000, np.random.default_rng(seed))
    return sums.mean(0), np.cov(sums.T)


@pytest.mark.parametrize("distinct", [True, False], ids=["samples", "cells"])
def test_moments_are_those_of_drawing_with_replacement(distinct: bool) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(600, 2)) if distinct else rng.integers(0, 2, size=(600, 2)).astype(float)
    rows[:, 1] += rows[:, 0]
    mean, covariance = moments(rows)
    expected = np.cov(rows.T, bias=True) * len(rows)
    assert mean == pytest.approx(rows.sum(0), abs=4 * math.sqrt(expected.max() / 4000))
    assert covariance == pytest.approx(expected, rel=0.12)


def test_cells_and_samples_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(0, 2, size=(300, 3)).astype(float)
    by_cells = moments(rows)
    monkeypatch.setattr(bootstrap, "_FEW", 0)
    by_samples = moments(rows, seed=1)
    assert by_cells[0] == pytest.approx(by_samples[0], abs=1.5)
    assert by_cells[1] == pytest.approx(by_samples[1], rel=0.15, abs=5)


def test_chunks_do_not_change_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(400, 1))
    monkeypatch.setattr(bootstrap, "_CHUNK", 1000)
    sums = resampled_sums(rows, 33, np.random.default_rng(0))
    assert sums.shape == (33, 1)
    assert len(np.unique(sums)) == 33


def test_nothing_to_draw_from() -> None:
    assert resampled_sums(np.zeros((0, 2)), 5, np.random.default_rng(0)).tolist() == [[0.0, 0.0]] * 5


def test_basic_interval_turns_the_replicates_around() -> None:
    replicates = np.arange(101, dtype=float)
    assert basic_interval(10.0, replicates) == pytest.approx((20 - 97.5, 20 - 2.5))
    assert all(math.isnan(end) for end in basic_interval(math.nan, replicates))
    assert all(math.isnan(end) for end in basic_interval(1.0, np.array([math.nan])))


def test_interval_of_a_mean_covers() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        rows = rng.exponential(size=(80, 1))
        low, high = basic_interval(rows.mean(), resampled_sums(rows, 200, rng)[:, 0] / 80)
        covered += low <= 1.0 <= high
    assert 0.88 < covered / 200 < 0.99
