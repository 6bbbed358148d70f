"""Paired comparisons over seeds: mean difference with its interval, and an exact sign-flip permutation test."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BENCHMARKS = str(Path(__file__).resolve().parents[1])
if _BENCHMARKS not in sys.path:
    sys.path.insert(0, _BENCHMARKS)

from paired import half_width  # noqa: E402  (needs the path above)

EXACT = 14  # pairs up to which all sign flips are counted


@dataclass(frozen=True)
class Comparison:
    """Differences of pairs.

    Attributes:
        mean: Of the differences.
        half: Half width of its 95 % interval (Student's t).
        p_value: Of the two-sided sign-flip permutation test on the mean.
        pairs: Their number.
    """

    mean: float
    half: float
    p_value: float
    pairs: int

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half

    @property
    def sign(self) -> int:
        """1 or −1 if the interval excludes zero, else 0."""
        return 0 if not self.decided else 1 if self.mean > 0 else -1

    def __str__(self) -> str:
        if not self.pairs:
            return "–"
        p = "" if math.isnan(self.p_value) else f" (p {self.p_value:.2g})"
        return f"{self.mean:+.4f} ± {self.half:.4f}{' *' if self.decided else ''}{p}"


AHEAD, BEHIND, TRADES, ALIKE = "ahead", "behind", "trades", "–"


def standing(accuracy: Comparison, excess: Comparison) -> str:
    """Where the first of two methods stands: ahead if better in one thing and not worse in the other.

    Args:
        accuracy: First less second.
        excess: Of the gap over the tolerance, first less second: what is within the tolerance is all the same.
    """
    better = [accuracy.sign > 0, excess.sign < 0]
    worse = [accuracy.sign < 0, excess.sign > 0]
    if any(better) and any(worse):
        return TRADES
    return AHEAD if any(better) else BEHIND if any(worse) else ALIKE


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """``first − second`` by pairs; pairs with an undefined value are left out.

    Raises:
        ValueError: For sequences of different length.
    """
    differences = [a - b for a, b in zip(first, second, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if not differences:
        return Comparison(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(differences)
    return Comparison(mean, half_width(differences), sign_flip_p_value(differences), len(differences))


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Share of the sign flips whose mean is at least as far from zero; NaN beyond :data:`EXACT` pairs."""
    if len(differences) > EXACT:
        return math.nan
    observed = abs(math.fsum(differences))
    flips = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(math.fsum(sign * value for sign, value in zip(signs, differences, strict=True))) for signs in flips]
    return sum(value >= observed - 1e-12 for value in sums) / len(sums)
