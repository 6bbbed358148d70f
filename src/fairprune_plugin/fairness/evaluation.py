"""What a split says about a model: accuracy, per-group rates with intervals, and a verdict per constraint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from . import parity, rates
from .counts import RateCounts
from .intervals import gap_half_width, wilson
from .lagrangian import Lagrangian
from .outputs import Outputs
from .tracker import ConstraintTracker

SATISFIED = "satisfied"
VIOLATED = "violated"
UNDECIDABLE = "not decidable"


@dataclass(frozen=True)
class RateOfGroup:
    """One rate of one group: value, 95 % Wilson interval and the samples it was counted on."""

    rate: str
    group: str
    value: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class Verdict:
    """Whether one constraint holds on a split.

    Attributes:
        constraint: Its name.
        rate: The rate with the largest gap.
        gap: Point estimate of what the tolerance bounds; NaN if undefined.
        half_width: Of the gap's 95 % interval.
        tolerance: What was asked for.
        feasible: Whether the point estimate is within the tolerance (undefined gaps are not).
        status: ``"satisfied"`` when the whole intervals of all rates say so, ``"violated"`` when that of any
            does, else ``"not decidable"`` at this sample size.
    """

    constraint: str
    rate: str
    gap: float
    half_width: float
    tolerance: float
    feasible: bool
    status: str


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
        over = [math.inf if math.isnan(v.gap) else v.gap - v.tolerance for v in self.verdicts]
        return max([0.0, *over])

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


class Evaluator:
    """Collects batches of a split and sums them up.

    Args:
        lagrangian: Whose constraints are judged.
        split: Name of the split; degradation parity compares with the dense rates of the same name.
    """

    def __init__(self, lagrangian: Lagrangian, split: str) -> None:
        self._lagrangian = lagrangian
        self._split = split
        self._samples = 0
        self._right = 0.0
        self._table: RateCounts | None = None
        self._counts: list[RateCounts] = []

    @torch.no_grad()
    def add(self, logits: Tensor, targets: Tensor, sensitive: Tensor | None) -> None:
        """Adds a batch; the sensitive attribute may be missing only without constraints."""
        outputs = Outputs.parse(logits, targets)
        self._samples += len(outputs.targets)
        self._right += float((outputs.predicted() == outputs.targets).sum())
        if not self._lagrangian.constraints:
            return
        if sensitive is None:
            raise DataError("the loader yields (x, y) but the constraint needs (x, y, s)")
        outputs, groups = self._lagrangian.parse(logits, targets, sensitive)
        self._lagrangian.bind(outputs.num_classes)
        if self._table is None:
            self._table = RateCounts(_table_of(outputs.num_classes), len(self._lagrangian.group_names))
            self._counts = [tracker.new_counts() for tracker in self._lagrangian.trackers]
        for counts in (self._table, *self._counts):
            counts.update(outputs, groups)

    def result(self, *, dense: bool = False) -> Evaluation:
        """The evaluation of everything added; ``dense`` makes its rates those of the dense model.

        Raises:
            DataError: If nothing was.
        """
        if self._samples == 0:
            raise DataError(f"the {self._split} loader is empty: no batch to evaluate")
        if dense:
            for tracker, counts in zip(self._lagrangian.trackers, self._counts, strict=False):
                tracker.dense_rates[self._split] = counts.values()
        pairs = zip(self._lagrangian.trackers, self._counts, strict=True) if self._counts else ()
        return Evaluation(
            split=self._split,
            samples=self._samples,
            accuracy=self._right / self._samples,
            rates=tuple(self._rates()),
            verdicts=tuple(judge(tracker, counts, self._split) for tracker, counts in pairs),
            counts=tuple(self._counts),
        )

    def _rates(self) -> Iterator[RateOfGroup]:
        if self._table is None:
            return
        values = self._table.values()
        low, high = wilson(self._table.hits, self._table.totals)
        for row, rate in enumerate(self._table.rates):
            for column, group in enumerate(self._lagrangian.group_names):
                value, lower, upper = (float(t[row, column]) for t in (values, low, high))
                samples = int(self._table.totals[row, column])
                yield RateOfGroup(rate.name, group, value, lower, upper, samples)


def judge(tracker: ConstraintTracker, counts: RateCounts, split: str) -> Verdict:
    """Verdict of one constraint from the counts of a split, at its rate with the largest gap."""
    reference = tracker.constraint.reference_key
    values = tracker.relative(counts.values(), split)
    deviation = parity.deviations(values, parity.reference_weights(values, counts.totals, reference))
    gaps = tracker.gaps(counts, split)
    halves = gap_half_width(counts.hits.cpu(), counts.totals.cpu(), deviation.cpu(), reference)
    worst = int(gaps.nan_to_num(-1.0).argmax())
    gap, half, tolerance = float(gaps[worst]), float(halves[worst]), tracker.constraint.tolerance
    # Every rate must hold, not only the one with the largest gap; a NaN compares False, so that an undefined
    # gap leaves the verdict open.
    if bool((gaps.cpu() - halves > tolerance).any()):
        status = VIOLATED
    else:
        status = SATISFIED if bool((gaps.cpu() + halves <= tolerance).all()) else UNDECIDABLE
    # A NaN compares False: an undefined gap is not feasible.
    return Verdict(
        tracker.constraint.name,
        counts.rates[worst].name,
        gap,
        half,
        tolerance,
        gap <= tolerance,
        status,
    )


def _table_of(num_classes: int) -> list[rates.Rate]:
    classes = [1] if num_classes == 2 else range(num_classes)
    per_class = (rates.selection_rate, rates.true_positive_rate, rates.false_positive_rate)
    return [rates.accuracy(), *(make(cls) for cls in classes for make in per_class)]


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
