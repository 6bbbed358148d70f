"""What a model said about a batch, read once: logits and targets of a binary, multi-class or multi-label task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError
from ..value_checks import known_in_range, refuse_if
from .precision import widened


@dataclass(frozen=True)
class Task:
    """What is predicted.

    Attributes:
        num_classes: 2 for a binary task and for each label of a multi-label one, else ``C``.
        num_labels: ``L`` of a multi-label task; ``None`` otherwise.
    """

    num_classes: int
    num_labels: int | None = None

    def __str__(self) -> str:
        return f"{self.num_classes} classes" if self.num_labels is None else f"{self.num_labels} labels"


@dataclass(frozen=True)
class Outputs:
    """Logits and targets in one canonical form.

    Attributes:
        logits: ``(N,)`` for a binary task (log-odds of class 1), ``(N, C)`` for ``C ≥ 3`` classes, ``(N, L)`` for
            ``L`` labels (log-odds of each).
        targets: ``(N,)`` int64 in ``[0, num_classes)``; ``(N, L)`` for labels.
        num_classes: 2 for a binary task and for labels, else ``C``.
        num_labels: ``L`` of a multi-label task, else ``None``.
    """

    logits: Tensor
    targets: Tensor
    num_classes: int
    num_labels: int | None = None

    @classmethod
    def parse(cls, logits: Tensor, targets: Tensor) -> Outputs:
        """Accepts logits ``(N,)``, ``(N, 1)``, ``(N, 2)`` or ``(N, C)`` and targets ``(N,)`` or ``(N, 1)``; or, for a
        multi-label task, logits and targets both ``(N, L)`` with ``L ≥ 2``.

        Two logits become one, their difference: the softmax over two classes is the sigmoid of it. Logits of reduced
        precision become float32.

        Raises:
            DataError: For any other shape, for targets that are not whole numbers, or out of range.
        """
        if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
            raise DataError(
                f"expected logits and targets as tensors, got {type(logits).__name__} and "
                f"{type(targets).__name__}: {_cure(logits, targets)}"
            )
        if logits.dim() not in (1, 2) or logits.numel() == 0:
            raise DataError(
                f"expected logits of shape (N,), (N, 1), (N, 2) or (N, C), got {tuple(logits.shape)}: "
                "pass one row of class scores per sample"
            )
        if not logits.is_floating_point() or targets.is_complex():
            raise DataError(
                f"expected logits as floating-point numbers and targets as whole ones, got {logits.dtype} and "
                f"{targets.dtype}: pass model(x) and class ids"
            )
        multi_label = logits.dim() == 2 and logits.shape[1] >= 2 and targets.shape == logits.shape
        if targets.shape not in ((len(logits),), (len(logits), 1)) and not multi_label:
            raise DataError(
                f"expected targets of shape ({len(logits)},) for logits of shape {tuple(logits.shape)} (or the shape of "
                f"the logits for a multi-label task), got {tuple(targets.shape)}"
            )
        if targets.device != logits.device:
            raise DataError(
                f"logits are on {logits.device} but targets on {targets.device}: move the batch to the model's device"
            )
        logits = widened(logits)
        if multi_label:
            return cls(logits, _class_ids(targets, 2), 2, logits.shape[1])
        classes = 2 if logits.dim() == 1 or logits.shape[1] <= 2 else logits.shape[1]
        if logits.dim() == 2 and logits.shape[1] <= 2:
            logits = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        return cls(logits, _class_ids(targets.reshape(-1), classes), classes)

    @property
    def task(self) -> Task:
        return Task(self.num_classes, self.num_labels)

    def label(self, index: int) -> Outputs:
        """One label of a multi-label task, as a binary task."""
        return Outputs(self.logits[:, index], self.targets[:, index], 2)

    def predicted(self) -> Tensor:
        """Predicted class of each sample (of each label), shaped as the targets, int64; a log-odds of exactly 0
        counts as class 0."""
        if self.num_classes == 2:
            return (self.logits > 0).long()
        return self.logits.argmax(dim=1)

    def margin(self, cls: int | None) -> Tensor:
        """How far the decision is in favour of a class, shaped as the targets, positive where it is predicted.

        Args:
            cls: A class id, or ``None`` for the true class of each sample.
        """
        if self.num_classes == 2:
            if cls is None:
                return torch.where(self.targets == 1, self.logits, -self.logits)
            return self.logits if cls == 1 else -self.logits
        index = self.targets if cls is None else torch.full_like(self.targets, cls)
        own = self.logits.gather(1, index[:, None]).squeeze(1)
        others = self.logits.scatter(1, index[:, None], float("-inf"))
        return own - others.amax(dim=1)

    def log_probability(self, cls: int | None) -> Tensor:
        """Log of the probability the model gives to a class (``None``: to the true one), shaped as the targets."""
        if self.num_classes == 2:
            return F.logsigmoid(self.margin(cls))
        index = self.targets if cls is None else torch.full_like(self.targets, cls)
        return F.log_softmax(self.logits, dim=1).gather(1, index[:, None]).squeeze(1)

    def probability(self, cls: int | None) -> Tensor:
        """Probability the model gives to a class (``None``: to the true one), shaped as the targets."""
        return self.log_probability(cls).exp()

    def losses(self) -> Tensor:
        """Cross entropy of each sample in nats, ``(N,)``; the mean over the labels of a multi-label task."""
        losses = -self.log_probability(None)
        return losses.mean(dim=1) if losses.dim() == 2 else losses


def _fix(low: int) -> str:
    """What to do about targets out of range, the lowest of which is this one."""
    if low >= 0:
        return "the number of logits must match the number of classes (one or two logits mean a binary task)"
    return (
        "a negative number is no class. Leave samples without a label (such as -100, the ignore_index of torch's losses) "
        "out of the batch, with their logits and group ids, as no rate can count them; number the classes from 0"
    )


def _class_ids(targets: Tensor, num_classes: int) -> Tensor:
    ids = targets.long()
    if targets.is_floating_point():
        refuse_if(
            (ids.to(targets.dtype) != targets).any(),
            lambda: DataError(
                "expected class ids, got targets that are not whole numbers (or NaN): pass the label of each "
                "sample, not a probability"
            ),
        )
    if known_in_range(ids, num_classes):
        return ids
    low, high = torch.aminmax(ids)
    refuse_if(
        (low < 0) | (high >= num_classes),
        lambda: DataError(
            f"expected targets in [0, {num_classes}) for these logits, got values in [{int(low)}, {int(high)}]: "
            + _fix(int(low))
        ),
    )
    return ids.clamp(
        0, num_classes - 1
    )  # a class that is not there would bring an accelerator down before it is refused


def _cure(logits: Any, targets: Any) -> str:
    """For what is no tensor: the logits out of a container, or other values as a tensor."""
    cures = []
    if isinstance(logits, Mapping):
        cures.append('pick the logits out of the model\'s output, out["…"]')
    elif isinstance(logits, list | tuple):
        cures.append("pick the logits out of the model's output, out[0]")
    elif not isinstance(logits, Tensor):
        cures.append("pass model(x), or its .logits")
    if not isinstance(targets, Tensor):
        cures.append("pass torch.as_tensor(y)")
    return " and ".join(cures)
