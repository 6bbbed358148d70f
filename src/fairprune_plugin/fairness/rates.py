"""A rate: the mean of a decision over the samples of a condition (accuracy, selection rate, TPR, FPR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .outputs import Outputs
from .surrogates import surrogate_indicator


@dataclass(frozen=True)
class Rate:
    """E[decision | condition], where the decision is "class ``cls`` is predicted" or "the prediction is right".

    Attributes:
        name: Shown in reports.
        cls: The class whose prediction is counted; ``None`` counts right predictions.
        given: The true class a sample must have to count; ``None`` for every sample.
        given_not: The true class a sample must *not* have to count; ``None`` for no such condition.
    """

    name: str
    cls: int | None = None
    given: int | None = None
    given_not: int | None = None

    def condition(self, targets: Tensor) -> Tensor:
        """Which samples count, ``(N,)`` bool."""
        if self.given is not None:
            return targets == self.given
        if self.given_not is not None:
            return targets != self.given_not
        return torch.ones_like(targets, dtype=torch.bool)

    def strict(self, outputs: Outputs) -> Tensor:
        """The decision itself, ``(N,)`` bool, without a gradient."""
        wanted = outputs.targets if self.cls is None else self.cls
        return outputs.predicted() == wanted

    def surrogate(self, outputs: Outputs, surrogate: str) -> Tensor:
        """The decision's differentiable surrogate, ``(N,)``."""
        return surrogate_indicator(outputs, self.cls, surrogate)


def accuracy() -> Rate:
    """P(prediction is right)."""
    return Rate("accuracy")


def selection_rate(cls: int) -> Rate:
    """P(class ``cls`` is predicted)."""
    return Rate(f"selection_rate[{cls}]", cls=cls)


def true_positive_rate(cls: int) -> Rate:
    """P(class ``cls`` is predicted | it is true)."""
    return Rate(f"true_positive_rate[{cls}]", cls=cls, given=cls)


def false_positive_rate(cls: int) -> Rate:
    """P(class ``cls`` is predicted | another is true)."""
    return Rate(f"false_positive_rate[{cls}]", cls=cls, given_not=cls)
