"""Means over seeds with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Two-sided 97.5 % quantiles of Student's t by degrees of freedom 1 … 30; beyond, the normal one.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T975 += (2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


def half_width(values: Sequence[float]) -> float:
    """Half width of the 95 % interval of the mean (Student's t); NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    quantile = _T975[len(values) - 2] if len(values) - 2 < len(_T975) else 1.96
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def mean_interval(values: Sequence[float]) -> str:
    """``mean ± half width`` with four digits; a dash without values."""
    if not values:
        return "–"
    return f"{statistics.fmean(values):.4f} ± {half_width(values):.4f}"
