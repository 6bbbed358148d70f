"""What a model said about a batch, read once: logits and targets of a binary or multi-class task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError


@dataclass(frozen=True)
class Outputs:
    """Logits and targets in one canonical form.

    Attributes:
        logits: ``(N,)`` for a binary task (log-odds of class 1), ``(N, C)`` for ``C ≥ 3`` classes.
        targets: ``(N,)`` int64 in ``[0, num_classes)``.
        num_classes: 2 for a binary task, else ``C``.
    """

    logits: Tensor
    targets: Tensor
    num_classes: int

    @classmethod
    def parse(cls, logits: Tensor, targets: Tensor) -> Outputs:
        """Accepts logits ``(N,)``, ``(N, 1)``, ``(N, 2)`` or ``(N, C)`` and targets ``(N,)`` or ``(N, 1)``.

        Two logits become one, their difference: the softmax over two classes is the sigmoid of it.

        Raises:
            DataError: For any other shape, for targets that are not whole numbers, or out of range.
        """
        if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
            raise DataError(
                f"expected logits and targets as tensors, got {type(logits).__name__} and "
                f"{type(targets).__name__}: pass model(x) (or its .logits) and y"
            )
        if logits.dim() not in (1, 2) or logits.numel() == 0:
            raise DataError(
                f"expected logits of shape (N,), (N, 1), (N, 2) or (N, C), got {tuple(logits.shape)}: "
                "pass one row of class scores per sample"
            )
        if targets.shape not in ((len(logits),), (len(logits), 1)):
            raise DataError(
                f"expected targets of shape ({len(logits)},) for logits of shape {tuple(logits.shape)}, "
                f"got {tuple(targets.shape)}"
            )
        if targets.device != logits.device:
            raise DataError(
                f"logits are on {logits.device} but targets on {targets.device}: move the batch to the model's device"
            )
        classes = 2 if logits.dim() == 1 or logits.shape[1] <= 2 else logits.shape[1]
        if logits.dim() == 2 and logits.shape[1] <= 2:
            logits = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        return cls(logits, _class_ids(targets.reshape(-1), classes), classes)

    def predicted(self) -> Tensor:
        """Predicted class of each sample, ``(N,)`` int64; a log-odds of exactly 0 counts as class 0."""
        if self.num_classes == 2:
            return (self.logits > 0).long()
        return self.logits.argmax(dim=1)

    def margin(self, cls: int | None) -> Tensor:
        """How far the decision is in favour of a class, ``(N,)``, positive where that class is predicted.

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

    def probability(self, cls: int | None) -> Tensor:
        """Probability the model gives to a class (``None``: to the true one), ``(N,)``."""
        if self.num_classes == 2:
            return torch.sigmoid(self.margin(cls))
        index = self.targets if cls is None else torch.full_like(self.targets, cls)
        return torch.softmax(self.logits, dim=1).gather(1, index[:, None]).squeeze(1)


def _class_ids(targets: Tensor, num_classes: int) -> Tensor:
    if targets.is_floating_point():
        ids = targets.long()
        if not torch.equal(ids.to(targets.dtype), targets):
            raise DataError(
                "expected class ids, got targets that are not whole numbers (or NaN): pass the label of each "
                "sample, not a probability"
            )
    else:
        ids = targets.long()
    low, high = torch.aminmax(ids)
    if bool(low < 0) or bool(high >= num_classes):
        raise DataError(
            f"expected targets in [0, {num_classes}) for these logits, got values in [{int(low)}, {int(high)}]: "
            "the number of logits must match the number of classes (one or two logits mean a binary task)"
        )
    return ids
