"""95 % intervals of means, and of changes between two models on the same samples (paired)."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..fairness.intervals import Z95, wilson
from .bootstrap import Array

UNKNOWN_INTERVAL = (math.nan, math.nan)


def of_proportion(hits: float, total: float) -> tuple[float, float]:
    """Wilson's score interval; unknown without a trial."""
    if total <= 0:
        return UNKNOWN_INTERVAL
    low, high = wilson(torch.tensor(hits, dtype=torch.float64), torch.tensor(total, dtype=torch.float64))
    return float(low), float(high)


def of_mean(values: Array) -> tuple[float, float]:
    """Mean ± 1.96 standard errors; unknown below two samples."""
    if len(values) < 2:
        return UNKNOWN_INTERVAL
    mean, half = float(values.mean()), Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def of_paired_change(before: Array, after: Array) -> tuple[float, float]:
    """Change of a proportion on the same samples: Agresti and Min's interval (Statistics in Medicine, 2005).

    Half an observation is added to each of the four outcomes, so that a handful of samples without any change is not
    taken as certain. With b gains and c losses among n: ``(b − c) / (n + 2)`` with the variance of
    :func:`paired_variance`.
    """
    n = len(before)
    if n == 0:
        return UNKNOWN_INTERVAL
    difference = after - before
    centre = float(difference.sum()) / (n + 2)
    half = Z95 * math.sqrt(paired_variance(float(difference.sum()), float(np.square(difference).sum()), n))
    return max(-1.0, centre - half), min(1.0, centre + half)


def paired_variance(total: float, squares: float, n: float, *, discordant: int = 1) -> float:
    """Squared standard error of a mean difference of indicators: ((b + c + 1) / (n + 2) − d²) / (n + 2).

    Args:
        total: Sum of the differences, b − c.
        squares: Sum of their squares, b + c.
        n: Samples.
        discordant: How many of the two pseudo-observations are a gain or a loss. Both of them (Bonett and Price, Journal of
            Educational and Behavioral Statistics, 2012) is the safer one where changes go one way only: n samples without
            any loss are likely (13 %) at a loss of 2/n.
    """
    d = total / (n + 2)
    return max(0.0, ((squares + discordant) / (n + 2) - d * d) / (n + 2))
