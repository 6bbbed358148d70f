"""What is left of many paired differences when their number is reckoned with.

Of hundreds of 95 % intervals of methods that are alike, one in twenty excludes zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .statistics import Comparison

LEVEL = 0.05


@dataclass(frozen=True)
class Discoveries:
    """Differences that are told from zero, by whom they favour.

    Attributes:
        tests: All differences.
        favourable: Of those told from zero, the ones above it.
        adverse: The ones below it.
    """

    tests: int
    favourable: int
    adverse: int


def t_p_value(difference: Comparison) -> float:
    """Of the two-sided t test on the mean: below 0.05 exactly where the interval excludes zero; 1 without an interval."""
    if difference.pairs < 2 or math.isnan(difference.half):
        return 1.0
    if difference.half == 0:
        return 1.0 if difference.mean == 0 else 0.0
    freedom = difference.pairs - 1
    error = difference.half / stats.t.ppf(0.975, freedom)
    return float(2 * stats.t.sf(abs(difference.mean) / error, freedom))


def at_false_discovery_rate(differences: Sequence[Comparison], level: float = LEVEL) -> Discoveries:
    """By the step-up procedure of Benjamini and Hochberg (1995), which holds for positively dependent tests too."""
    p_values = [t_p_value(difference) for difference in differences]
    adjusted = stats.false_discovery_control(p_values) if p_values else []
    return _told([value <= level for value in adjusted], differences)


def at_family_wise_error(differences: Sequence[Comparison], level: float = LEVEL) -> Discoveries:
    """By the step-down procedure of Holm (1979), which holds for any dependence: not even one is false."""
    p_values = [t_p_value(difference) for difference in differences]
    told = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > level / (len(p_values) - rank):
            break
        told[index] = True
    return _told(told, differences)


def _told(told: Sequence[bool], differences: Sequence[Comparison]) -> Discoveries:
    means = [difference.mean for difference, is_told in zip(differences, told, strict=True) if is_told]
    return Discoveries(len(differences), sum(mean > 0 for mean in means), sum(mean < 0 for mean in means))
