"""How a wrapper applies a mask while it is being learned: NNI's product, with the gradient ∇_z of the engine."""

from __future__ import annotations

from typing import Any

import torch
from nni.compression.base.apply_method import pruning_apply_methods
from nni.compression.base.target_space import PruningTargetSpace
from torch import Tensor

STRAIGHT_THROUGH = "bifp_mul"
BYPASS = "bypass"
PRODUCT = "mul"


class _Masked(torch.autograd.Function):
    """z = m ⊙ θ, whose gradient arrives at θ unmasked: the engine needs that of hidden weights, too."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, mask: Tensor) -> Tensor:
        return target * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def masked(target: Tensor, target_space: PruningTargetSpace) -> Tensor:
    """NNI's signature of an apply method."""
    out: Tensor = _Masked.apply(target, target_space.mask)  # type: ignore[no-untyped-call]
    return out


pruning_apply_methods.setdefault(STRAIGHT_THROUGH, masked)
