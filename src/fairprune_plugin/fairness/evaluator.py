"""Collects what a model says about the batches of a split, and sums it up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from . import rates
from .counts import RateCounts
from .evaluation import Evaluation, RateOfGroup
from .groups import Groups
from .intervals import wilson
from .lagrangian import Lagrangian
from .outputs import Outputs, Task
from .verdict import judge


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
        self._task: Task | None = None
        self._logits: list[Tensor] = []
        self._tables: dict[Groups, RateCounts] = {}
        self._counts: list[RateCounts] = []

    def _begin(self, task: Task) -> None:
        self._task = task
        self._lagrangian.bind(task)
        if not self._counts:
            self._counts = [tracker.new_counts() for tracker in self._lagrangian.trackers]
            table = table_of(task)
            self._tables = {groups: RateCounts(table, len(groups.names)) for groups in self._lagrangian.groupings}

    @torch.no_grad()
    def add(self, logits: Tensor, targets: Tensor, sensitive: Any) -> None:
        """Adds a batch; the sensitive attribute may be missing only without constraints."""
        outputs = Outputs.parse(logits, targets)
        self._samples += len(outputs.targets)
        self._logits.append(torch.stack([outputs.logits.double().sum(), outputs.logits.double().abs().sum()]))
        right = outputs.predicted() == outputs.targets
        self._right += float(right.double().mean(dim=-1).sum() if right.dim() == 2 else right.sum())
        if not self._lagrangian.constraints:
            return
        if sensitive is None:
            raise DataError("the loader yields (x, y) but the constraint needs (x, y, s)")
        batch = self._lagrangian.parse(logits, targets, sensitive)
        self._begin(outputs.task)
        tables = set()
        for tracker, counts, ids in zip(self._lagrangian.trackers, self._counts, batch.ids, strict=True):
            counts.update(outputs, ids)
            groups = tracker.constraint.group_spec
            if groups not in tables:
                self._tables[groups].update(outputs, ids)
                tables.add(groups)

    def state_dict(self) -> dict[str, Any]:
        """What was added, in tensors and plain values, for :meth:`take`."""
        task = self._task
        return {
            "samples": self._samples,
            "right": self._right,
            "logits": torch.stack(self._logits).sum(dim=0).tolist() if self._logits else [0.0, 0.0],
            "task": None if task is None else (task.num_classes, task.num_labels),
            "counts": [_on_cpu(counts) for counts in self._counts],
            "tables": [_on_cpu(table) for table in self._tables.values()],
        }

    @staticmethod
    def of_the_same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether two evaluators of the same model were given the same samples, by what :meth:`state_dict` says: as many
        of each group and label, and the same sum of logits up to rounding."""
        sizes = [(part["samples"], [counts["totals"].tolist() for counts in part["tables"]]) for part in (one, other)]
        (a, size), (b, _) = one["logits"], other["logits"]
        return sizes[0] == sizes[1] and bool(abs(a - b) <= 1e-5 * size)

    def take(self, parts: Sequence[dict[str, Any]]) -> None:
        """Puts the sum of what several evaluators of the same constraints were given in the place of the own."""
        tasks = {part["task"] for part in parts if part["task"] is not None}
        if len(tasks) > 1:
            raise DataError(f"expected the same task on every rank, got {' and '.join(str(Task(*t)) for t in tasks)}")
        self._samples, self._right = (sum(part[key] for part in parts) for key in ("samples", "right"))
        self._counts, self._tables = [], {}
        for task in tasks:
            self._begin(Task(*task))
        for part in parts:
            # Nothing is there if that part is of no samples at all.
            for counts, added in zip(self._counts, part["counts"], strict=False):
                counts.add(added)
            for table, added in zip(self._tables.values(), part["tables"], strict=False):
                table.add(added)

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
                tracker.sizes[self._split] = counts.totals
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
        for groups, table in self._tables.items():
            values = table.values()
            low, high = wilson(table.hits, table.totals)
            for row, rate in enumerate(table.rates):
                for column, group in enumerate(groups.names):
                    value, lower, upper = (float(t[row, column]) for t in (values, low, high))
                    samples = int(table.totals[row, column])
                    yield RateOfGroup(rate.name, group, value, lower, upper, samples, groups.label)


def table_of(task: Task) -> list[rates.Rate]:
    """The rates a report shows: accuracy and, for each class of interest (of each label), selection rate, TPR, FPR."""
    classes = [1] if task.num_classes == 2 else range(task.num_classes)
    per_class = (rates.selection_rate, rates.true_positive_rate, rates.false_positive_rate)
    binary = [rates.accuracy(), *(make(cls) for cls in classes for make in per_class)]
    if task.num_labels is None:
        return binary
    return [rates.of_label(rate, label) for label in range(task.num_labels) for rate in binary]


def _on_cpu(counts: RateCounts) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in counts.state_dict().items()}
