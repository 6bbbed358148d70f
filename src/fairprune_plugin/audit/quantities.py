"""What an audit tells of every group: for a task, the quantities as values of single samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fairness import rates
from ..fairness.outputs import Outputs, Task
from . import calibration, text
from .bootstrap import Array
from .compared import ComparedRate

RATE = "rate"
MEAN = "mean"
CALIBRATION = "calibration"

COUNT = "count"
ACCURACY = "accuracy"
LOSS = "loss"
PRECISION = "precision"
CALIBRATION_ERROR = "calibration_error"


@dataclass(frozen=True)
class Quantity:
    """One quantity, for all samples.

    Attributes:
        name: ``accuracy``, ``selection_rate``, ``true_positive_rate``, ``false_positive_rate``, ``precision``,
            ``loss`` or ``calibration_error``; or the name of a user's own rate.
        kind: ``"rate"``: a proportion; ``"mean"``: another mean; ``"calibration"``: :mod:`.calibration`.
        values: ``(N,)`` of each sample, or ``(N, bins)`` signed errors for a calibration.
        counted: ``(N,)`` bool: which samples count.
        cls: The class it is about, if any.
        label: The label of a multi-label task it is about, if any.
    """

    name: str
    kind: str
    values: Array
    counted: Array
    cls: int | None = None
    label: int | None = None

    @property
    def scale(self) -> str:
        """How it is written."""
        if self.name == LOSS:
            return text.NATS
        return text.NUMBER if self.kind == MEAN and self.name != ACCURACY else text.PERCENT


def quantities(outputs: Outputs, bins: int, compared: Sequence[ComparedRate] = ()) -> list[Quantity]:
    """All quantities of a task, in the order of the tables.

    Args:
        outputs: Of all samples.
        bins: Of the calibration error.
        compared: Rates that constraints compare; those that no table has (a user's own, or of another class) come last.
    """
    table = _standard(outputs, bins)
    there = {(quantity.name, quantity.cls, quantity.label) for quantity in table}
    for item in compared:
        key = (item.name, item.cls, item.label)
        if key not in there:
            there.add(key)
            table.append(_of_rate(item.name, item.rate, outputs, item.cls, item.label))
    return table


def _standard(outputs: Outputs, bins: int) -> list[Quantity]:
    if outputs.num_labels is None:
        return list(_single(outputs, bins, None))
    right = (outputs.predicted() == outputs.targets).double().mean(1)
    everything = torch.ones(len(right), dtype=torch.bool)
    table = [
        Quantity(ACCURACY, MEAN, _array(right), _array(everything)),
        Quantity(LOSS, MEAN, _array(outputs.losses()), _array(everything)),
    ]
    for label in range(outputs.num_labels):
        table += _single(outputs.label(label), bins, label)
    return table


def classes_of_interest(task: Task) -> list[int]:
    """Class 1 of a binary task, every class of a multi-class one (one against the rest)."""
    return [1] if task.num_classes == 2 else list(range(task.num_classes))


def _single(outputs: Outputs, bins: int, label: int | None) -> Iterator[Quantity]:
    accuracy, loss = rates.accuracy(), rates.mean_loss()
    yield _of_rate(ACCURACY, accuracy, outputs, None, label)
    predicted, targets = outputs.predicted(), outputs.targets
    for cls in classes_of_interest(outputs.task):
        yield _of_rate("selection_rate", rates.selection_rate(cls), outputs, cls, label)
        yield _of_rate("true_positive_rate", rates.true_positive_rate(cls), outputs, cls, label)
        yield _of_rate("false_positive_rate", rates.false_positive_rate(cls), outputs, cls, label)
        yield Quantity(PRECISION, RATE, _array(targets == cls), _array(predicted == cls), cls, label)
    yield _of_rate(LOSS, loss, outputs, None, label)
    errors = calibration.signed_errors(outputs, bins)
    yield Quantity(CALIBRATION_ERROR, CALIBRATION, errors, _array(torch.ones(len(targets))), None, label)


def _of_rate(name: str, rate: rates.Rate, outputs: Outputs, cls: int | None, label: int | None) -> Quantity:
    kind = RATE if rate.indicator else MEAN
    return Quantity(name, kind, _array(rate.values(outputs)), _array(rate.counted(outputs.targets)), cls, label)


def _array(values: Tensor) -> Array:
    return values.double().numpy()
