"""Whether a constraint holds on a split, by the gap and by its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .counts import RateCounts
from .tracker import ConstraintTracker

SATISFIED = "satisfied"
VIOLATED = "violated"
UNDECIDABLE = "not decidable"


@dataclass(frozen=True)
class Verdict:
    """Whether one constraint holds on a split.

    Attributes:
        constraint: Its name.
        rate: The rate with the largest gap.
        gap: Point estimate of what the tolerance bounds; NaN if undefined.
        half_width: Z₀.₉₇₅ times the gap's standard error: what margins and choices by the upper bound count in.
        tolerance: What was asked for.
        feasible: Whether the point estimate is within the tolerance (undefined gaps are not).
        upper: The largest gap plus half width of any rate; NaN if any is undefined.
        attribute: What the groups are about, when the attribute has a name.
        status: ``"satisfied"`` when the whole intervals of all rates say so and every group has a rate,
            ``"violated"`` when the interval of any rate does, else ``"not decidable"`` at this sample size.
        low: Lower end of the gap's 95 % interval (:meth:`~.tracker.ConstraintTracker.intervals`); NaN if undefined.
        high: Upper end.
    """

    constraint: str
    rate: str
    gap: float
    half_width: float
    tolerance: float
    feasible: bool
    status: str
    upper: float
    attribute: str = ""
    low: float = math.nan
    high: float = math.nan

    @property
    def title(self) -> str:
        """The constraint's name, and what its groups are about."""
        return f"{self.constraint} by {self.attribute}" if self.attribute else self.constraint

    @property
    def excess(self) -> float:
        """By how much the gap exceeds the tolerance; infinite if it is undefined, at least 0."""
        return math.inf if math.isnan(self.gap) else max(0.0, self.gap - self.tolerance)

    @property
    def upper_excess(self) -> float:
        """The same for the upper bound."""
        return math.inf if math.isnan(self.upper) else max(0.0, self.upper - self.tolerance)


def judge(tracker: ConstraintTracker, counts: RateCounts, split: str) -> Verdict:
    """Verdict of one constraint from the counts of a split, at its rate with the largest gap."""
    gaps, halves = tracker.gaps(counts, split).cpu(), tracker.half_widths(counts, split).cpu()
    lows, highs = (end.cpu() for end in tracker.intervals(counts, split))
    worst = int(gaps.nan_to_num(-math.inf).argmax())
    gap, half, tolerance = float(gaps[worst]), float(halves[worst]), tracker.constraint.tolerance
    # Every rate must hold, not only the one with the largest gap; a NaN compares False, so that an undefined
    # gap leaves the verdict open.
    small_let_be = tracker.constraint.min_group_size > 0
    if bool((lows > tolerance).any()):
        status = VIOLATED
    else:
        counted = small_let_be or bool((counts.totals > 0).all())
        status = SATISFIED if counted and bool((highs <= tolerance).all()) else UNDECIDABLE
    return Verdict(
        constraint=tracker.constraint.name,
        rate=tracker.families.names[worst],
        gap=gap,
        half_width=half,
        tolerance=tolerance,
        # A NaN compares False: an undefined gap is not feasible, unless small groups are let be.
        feasible=gap <= tolerance and (small_let_be or not bool(gaps.isnan().any())),
        status=status,
        upper=float((gaps + halves).amax()),  # NaN if any is
        attribute=tracker.constraint.group_spec.label,
        low=float(lows[worst]),
        high=float(highs[worst]),
    )
