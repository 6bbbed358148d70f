"""A rate: the mean of a decision over the samples of an event (accuracy, selection rate, TPR, FPR, mean loss)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..value_checks import refuse_if
from .outputs import Outputs
from .surrogates import surrogate_indicator

Values = Callable[[Outputs], Tensor]
Event = Callable[[Tensor], Tensor]


@runtime_checkable
class Decision(Protocol):
    """A numerator that knows surrogates of itself by name."""

    def __call__(self, outputs: Outputs) -> Tensor: ...

    def surrogate(self, outputs: Outputs, kind: str) -> Tensor: ...


@dataclass(frozen=True)
class Rate:
    """E[numerator | event]: what a constraint compares between groups. Users build their own.

    Attributes:
        numerator: ``outputs → (N,)``: the value of each sample, for example ``lambda out: out.predicted() == 2``.
            Not differentiated.
        event: ``targets → (N,)`` bool: which samples count; default all. It sees true labels only: a rate
            conditioned on predictions is not a mean that multipliers can steer.
        surrogate: ``outputs → (N,)``: differentiable stand-in for the numerator. The rates of this module know
            several by name and need none.
        name: Shown in reports.
        indicator: Whether the numerator is 0 or 1, so that the rate is a proportion; False for other means, such
            as a loss.
    """

    numerator: Values
    event: Event | None = None
    surrogate: Values | None = None
    name: str = "rate"
    indicator: bool = True

    def __post_init__(self) -> None:
        for field in ("numerator", "event", "surrogate"):
            value = getattr(self, field)
            if not callable(value) and not (field != "numerator" and value is None):
                raise ConfigError(f"expected {field} of rate {self.name!r} as a function, got {value!r}")
        if self.surrogate is None and not isinstance(self.numerator, Decision):
            raise ConfigError(
                f"rate {self.name!r} needs a surrogate, a differentiable stand-in for its numerator, such as "
                "surrogate=lambda out: out.probability(2)"
            )

    def counted(self, targets: Tensor) -> Tensor:
        """Which samples count, ``(N,)`` bool."""
        if self.event is None:
            return torch.ones(len(targets), dtype=torch.bool, device=targets.device)
        return self._checked(self.event(targets), len(targets), "event").bool()

    def values(self, outputs: Outputs) -> Tensor:
        """The numerator of each sample, ``(N,)`` float64, without a gradient.

        Raises:
            DataError: For another shape, or values of a proportion that are neither 0 nor 1.
        """
        with torch.no_grad():
            values = self._checked(self.numerator(outputs), len(outputs.targets), "numerator")
            if self.indicator and values.dtype != torch.bool:
                refuse_if(
                    ((values != 0) & (values != 1)).any(),
                    lambda: DataError(
                        f"rate {self.name!r} is a proportion but its numerator gave values other than 0 and 1: build it "
                        "with indicator=False"
                    ),
                )
            return values.double()

    def surrogate_values(self, outputs: Outputs, kind: str) -> Tensor:
        """The numerator's differentiable surrogate, ``(N,)``; ``kind`` names one unless the rate has its own."""
        if self.surrogate is not None:
            return self._checked(self.surrogate(outputs), len(outputs.targets), "surrogate")
        assert isinstance(self.numerator, Decision)
        return self.numerator.surrogate(outputs, kind)

    def _checked(self, values: Tensor, samples: int, what: str) -> Tensor:
        if not isinstance(values, Tensor) or values.shape != (samples,):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise DataError(
                f"expected the {what} of rate {self.name!r} to return a tensor of shape ({samples},), got {got}"
            )
        return values


@dataclass(frozen=True)
class Predicted:
    """1[class ``cls`` is predicted]; ``None``: 1[the prediction is right]."""

    cls: int | None

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.predicted() == (outputs.targets if self.cls is None else self.cls)

    def surrogate(self, outputs: Outputs, kind: str) -> Tensor:
        return surrogate_indicator(outputs, self.cls, kind)


@dataclass(frozen=True)
class Loss:
    """Cross entropy of the sample: its own surrogate."""

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.losses()

    def surrogate(self, outputs: Outputs, kind: str) -> Tensor:
        return outputs.losses()


@dataclass(frozen=True)
class Labelled:
    """The true class is ``cls``; with ``other``: it is any other."""

    cls: int
    other: bool = False

    def __call__(self, targets: Tensor) -> Tensor:
        return targets != self.cls if self.other else targets == self.cls


@dataclass(frozen=True)
class OfLabel:
    """A numerator or event of a binary task, applied to one label of a multi-label one."""

    inner: Rate
    index: int

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.inner.values(outputs.label(self.index))

    def surrogate(self, outputs: Outputs, kind: str) -> Tensor:
        return self.inner.surrogate_values(outputs.label(self.index), kind)

    def event(self, targets: Tensor) -> Tensor:
        return self.inner.counted(targets[:, self.index])


def of_label(rate: Rate, index: int) -> Rate:
    """The rate of one label."""
    view = OfLabel(rate, index)
    return Rate(view, view.event, name=f"{rate.name}@{index}", indicator=rate.indicator)


def accuracy() -> Rate:
    """P(prediction is right)."""
    return Rate(Predicted(None), name="accuracy")


def selection_rate(cls: int) -> Rate:
    """P(class ``cls`` is predicted)."""
    return Rate(Predicted(cls), name=f"selection_rate[{cls}]")


def true_positive_rate(cls: int) -> Rate:
    """P(class ``cls`` is predicted | it is true)."""
    return Rate(Predicted(cls), Labelled(cls), name=f"true_positive_rate[{cls}]")


def false_positive_rate(cls: int) -> Rate:
    """P(class ``cls`` is predicted | another is true)."""
    return Rate(Predicted(cls), Labelled(cls, other=True), name=f"false_positive_rate[{cls}]")


def mean_loss() -> Rate:
    """E[cross entropy], in nats."""
    return Rate(Loss(), name="loss", indicator=False)
