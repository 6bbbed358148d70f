"""An axis: its range, its ticks at round numbers, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear axis.

    Attributes:
        low: Its first value.
        high: Its last.
        ticks: Where labels stand.
        unit: Written after each label.
        factor: Times the value is what the label says (100 for percent).
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    unit: str = ""
    factor: float = 1.0

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        *,
        unit: str = "",
        factor: float = 1.0,
        least: float = 0.0,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        pad: bool = True,
        ticks: int = 4,
    ) -> Scale:
        """An axis that holds all finite values.

        Args:
            values: What is drawn.
            unit: After each label.
            factor: Of the labels.
            least: Smallest width of the range.
            bounds: The range never leaves them.
            pad: Whether the range grows to round numbers; else it begins and ends with the data.
            ticks: About how many intervals.
        """
        known = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(known), max(known)
        lack = max(least, 1e-9) - (high - low)
        if lack > 0:
            low, high = low - lack / 2, high + lack / 2
            low, high = (low + max(0.0, bounds[0] - low), high + max(0.0, bounds[0] - low))
            low, high = (low - max(0.0, high - bounds[1]), high - max(0.0, high - bounds[1]))
        step = _round_step((high - low) / ticks)
        if pad:
            low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        low, high = max(low, bounds[0]), min(high, bounds[1])
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return cls(low, high, tuple(k * step for k in range(first, last + 1)), unit, factor)

    def percent(self, value: float) -> float:
        """Where a value is, in percent of the axis; at its end if it is beyond."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def label(self, tick: float) -> str:
        """A tick in words."""
        shown = round(tick * self.factor, 9)
        return f"{shown:g}".replace("-", "−") + self.unit

    def anchor(self, tick: float) -> str:
        """Alignment that keeps the label within the axis."""
        where = self.percent(tick)
        return "start" if where < 4 else "end" if where > 96 else "middle"


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= rough * (1 - 1e-9))
