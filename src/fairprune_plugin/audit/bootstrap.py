"""The bootstrap: what sums over a group would have been on other samples of the same size (Efron, 1979)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_FEW = 256  # distinct rows up to which whole cells are drawn instead of single samples
_CHUNK = 2_000_000  # weights held at a time


def resampled_sums(rows: Array, replicates: int, rng: np.random.Generator) -> Array:
    """Column sums of ``replicates`` samples drawn from the rows with replacement, ``(B, K)``.

    Rows that are equal are interchangeable: where there are few distinct ones, as for indicators, one multinomial
    draw per replicate says how often each occurs. That is the same distribution at a fraction of the cost.

    Args:
        rows: ``(n, K)``, the contributions of each sample of a group; model and reference model side by side make
            the comparison a paired one.
        replicates: ``B``.
        rng: Where the randomness comes from.
    """
    n, width = rows.shape
    if n == 0 or width == 0:
        return np.zeros((replicates, width))
    if len(np.unique(rows[: 4 * _FEW], axis=0)) <= _FEW:
        cells, counts = np.unique(rows, axis=0, return_counts=True)
        if len(cells) <= max(_FEW, n // 16):
            return np.asarray(rng.multinomial(n, counts / n, size=replicates) @ cells, dtype=np.float64)
    out = np.empty((replicates, width))
    step = max(1, _CHUNK // n)
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        weights = np.bincount(drawn.reshape(-1), minlength=size * n).reshape(size, n)
        out[start : start + size] = weights.astype(np.float64) @ rows
    return out


def basic_interval(value: float, replicates: Array) -> tuple[float, float]:
    """The basic ("reverse percentile") 95 % interval ``2θ − q(.975) … 2θ − q(.025)`` (Davison and Hinkley, 1997, §5.2).

    It moves against the bias of an estimator that is too large in small samples, such as a calibration error; NaN
    without a finite replicate.
    """
    finite = replicates[np.isfinite(replicates)]
    if np.isnan(value) or len(finite) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(2 * value - high), float(2 * value - low)
