"""Levelling down: parity that was bought by making the better-off group worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..fairness.constraint import MACRO
from .decide import AuditVerdict
from .measures import Measure

# Rates of which more is better (or at least more of what is given out), and of which less is.
HIGHER_IS_BETTER = {"accuracy": 1, "true_positive_rate": 1, "selection_rate": 1, "false_positive_rate": -1, "loss": -1}


@dataclass(frozen=True)
class LevellingDown:
    """A constraint whose gap is within the tolerance while the group that was better off lost.

    Attributes:
        constraint: Name of the constraint.
        rate: Quantity in which it lost.
        better_off: The group that had the best value under the reference model.
        change: Its change; the 95 % interval lies on the losing side.
        low: Lower end.
        high: Upper end.
        worse_off: The group that had the worst value.
        worse_off_change: Its change.
        scale: How the changes are written, see :mod:`.text`.
    """

    constraint: str
    rate: str
    better_off: str
    change: float
    low: float
    high: float
    worse_off: str
    worse_off_change: float
    scale: str


def levelling_down(verdict: AuditVerdict, measures: Sequence[Measure]) -> list[LevellingDown]:
    """The quantities in which a constraint was levelled down, by the measures of its groups.

    A loss counts when its whole 95 % interval is one. Rates of a user's own are not looked at: nobody knows whether
    more of them is better.
    """
    if not verdict.within or verdict.own_rate:
        return []
    wanted = {item.rate for item in verdict.gaps}
    found = []
    for key in dict.fromkeys(m.key for m in measures if m.name in HIGHER_IS_BETTER and wanted & _names(m)):
        known = [m for m in measures if m.key == key and not math.isnan(m.change)]
        if len(known) < 2:
            continue
        sign = HIGHER_IS_BETTER[key[0]]
        order = np.argsort([sign * m.reference for m in known])
        best, worst = known[order[-1]], known[order[0]]
        lost = best.change_high < 0 if sign > 0 else best.change_low > 0
        if lost and best.reference != worst.reference:
            found.append(
                LevellingDown(
                    verdict.constraint,
                    title_key(best),
                    best.group,
                    best.change,
                    best.change_low,
                    best.change_high,
                    worst.group,
                    worst.change,
                    best.scale,
                )
            )
    return found


def _names(measure: Measure) -> set[str]:
    """The compared rates that a measure is behind: its own, or a mean over classes."""
    return {title_key(measure), f"{measure.name}[{MACRO}]"}


def title_key(measure: Measure) -> str:
    """Name of a measure's quantity as constraints write it: ``true_positive_rate[1]@0``."""
    cls = "" if measure.cls is None else f"[{measure.cls}]"
    return f"{measure.name}{cls}" + ("" if measure.label is None else f"@{measure.label}")
