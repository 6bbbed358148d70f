"""What a split says about a model: accuracy, per-group rates with intervals, and a verdict per constraint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .counts import RateCounts
from .intervals import Z95
from .verdict import Verdict


@dataclass(frozen=True)
class RateOfGroup:
    """One rate of one group: value, 95 % Wilson interval and the samples it was counted on.

    ``attribute`` says what the group is about when the attribute has a name.
    """

    rate: str
    group: str
    value: float
    low: float
    high: float
    samples: int
    attribute: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Result of a pass over a split.

    Attributes:
        split: Its name.
        samples: Number of samples.
        accuracy: Of everybody.
        rates: Per group: accuracy and, for each class of interest, selection rate, TPR and FPR.
        verdicts: One per constraint.
        counts: Raw counts, one per constraint tracker; they drive multipliers.
    """

    split: str
    samples: int
    accuracy: float
    rates: tuple[RateOfGroup, ...]
    verdicts: tuple[Verdict, ...]
    counts: tuple[RateCounts, ...]

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds by its point estimate."""
        return all(verdict.feasible for verdict in self.verdicts)

    @property
    def excess(self) -> float:
        """By how much the worst gap exceeds its tolerance; 0 when feasible."""
        return max([0.0, *(verdict.excess for verdict in self.verdicts)])

    @property
    def upper_excess(self) -> float:
        """By how much the worst gap plus half width exceeds the tolerance; 0 when all are within."""
        return max([0.0, *(verdict.upper_excess for verdict in self.verdicts)])

    @property
    def standard_error(self) -> float:
        """The largest standard error of a gap; without constraints that of the accuracy."""
        if not self.verdicts:
            return math.sqrt(self.accuracy * (1 - self.accuracy) / self.samples) if self.samples else 0.0
        return max(
            [0.0, *(verdict.half_width / Z95 for verdict in self.verdicts if not math.isnan(verdict.half_width))]
        )

    @property
    def degenerate(self) -> bool:
        """Whether everybody gets the same prediction: equal rates of the most useless kind."""
        selected = [item for item in self.rates if item.rate.startswith("selection_rate") and item.samples]
        extreme = all(item.value < 0.005 or item.value > 0.995 for item in selected)
        by_rate = {
            item.rate: {round(other.value) for other in selected if other.rate == item.rate} for item in selected
        }
        return bool(selected) and extreme and all(len(values) == 1 for values in by_rate.values())

    def rate(self, name: str, group: str) -> float:
        """One rate of one group by name, for example ``rate("accuracy", "female")``."""
        for item in self.rates:
            if (item.rate, item.group) == (name, group):
                return item.value
        raise KeyError((name, group))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe values; NaN becomes ``None``."""
        return {
            "split": self.split,
            "samples": self.samples,
            "accuracy": _json(self.accuracy),
            "feasible": self.feasible,
            "rates": [{key: _json(value) for key, value in vars(item).items()} for item in self.rates],
            "constraints": [{key: _json(value) for key, value in vars(v).items()} for v in self.verdicts],
        }


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
