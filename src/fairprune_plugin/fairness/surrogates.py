"""Differentiable stand-ins for the indicator of a decision, ``1[margin > 0]``.

The indicator counts (strict rates); a surrogate gives it a slope (surrogate rates). As in docs/method.md ("The
constraint") sigmoid, logistic, hinge and linear act on the margin of the decision, ``probability`` on the
predicted probability (for a binary task that is the sigmoid), ``cross_entropy`` on its logarithm (the negative loss,
as CEAG uses it; unbounded, so that the worst samples of a group have the largest say).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError
from .outputs import Outputs

MarginSurrogate = Callable[[Tensor], Tensor]


def sigmoid(margin: Tensor) -> Tensor:
    """σ(m): bounded in (0, 1), so no single sample dominates a rate."""
    return torch.sigmoid(margin)


def logistic(margin: Tensor) -> Tensor:
    """1 − log₂(1 + e⁻ᵐ): concave lower bound of the indicator, 0 at the decision boundary."""
    return 1 - torch.nn.functional.softplus(-margin) / math.log(2)


def hinge(margin: Tensor) -> Tensor:
    """1 − max(0, 1 − m): concave piecewise-linear lower bound of the indicator."""
    return 1 - torch.relu(1 - margin)


def linear(margin: Tensor) -> Tensor:
    """(1 + m) / 2: the covariance-style surrogate, ½ at the decision boundary."""
    return (1 + margin) / 2


MARGIN_SURROGATES: dict[str, MarginSurrogate] = {
    "sigmoid": sigmoid,
    "logistic": logistic,
    "hinge": hinge,
    "linear": linear,
}
SURROGATES = (*MARGIN_SURROGATES, "probability", "cross_entropy")


def surrogate_indicator(outputs: Outputs, cls: int | None, surrogate: str) -> Tensor:
    """Surrogate of "class ``cls`` is predicted" (``None``: "the prediction is right"), ``(N,)``.

    Raises:
        ConfigError: For a name not in :data:`SURROGATES`.
    """
    if surrogate == "probability":
        return outputs.probability(cls)
    if surrogate == "cross_entropy":
        return 1 + outputs.log_probability(cls)
    if surrogate not in MARGIN_SURROGATES:
        raise ConfigError(f"unknown surrogate {surrogate!r}: choose one of {', '.join(SURROGATES)}")
    return MARGIN_SURROGATES[surrogate](outputs.margin(cls))
