"""What a unit of the mask is worth: derivatives of the loss with respect to the mask, in closed form.

With z = m ⊙ θ and g = ∇_z L from one ordinary backward pass, the total derivative of the upper level is

    dL/dm = (θ − (1/γ) m ⊙ g) ⊙ g,

summed over the weights a unit multiplies. The first part is the direct effect of the mask; the second is
the implicit one, through θ*(m), in closed form from the quadratic regulariser (γ/2)‖θ‖² of the lower level
and a zero-Hessian approximation (Zhang et al., NeurIPS 2022; BiFP, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .masked_weights import MaskedWeights


@torch.no_grad()
def mask_gradient(weights: MaskedWeights, *, inverse_gamma: float = 0.0) -> Tensor:
    """dL/dm of every unit, ``(U,)`` float32, from the ``.grad`` the last backward pass left.

    Of sharded parameters, this rank's part of it: the sum over the ranks is the derivative.

    Args:
        weights: The masked model; hidden units get a derivative too, with the weights they left with.
        inverse_gamma: 1/γ; 0 leaves only the direct term.
    """
    out = torch.zeros(weights.num_units + 1, dtype=torch.float32, device=weights.keep.device)
    for parameter in weights.crossed:
        gradient = parameter.gradient
        if gradient is None:
            continue
        for axis in parameter.masked_axes:
            axis.add_to_units(out, parameter.derivative(axis, gradient, inverse_gamma).float())
    for blocks in weights.blocks:
        if blocks.parameter.grad is not None:
            out[blocks.units] += blocks.derivative(blocks.parameter.grad, inverse_gamma)
    return out[:-1]


@torch.no_grad()
def group_magnitude(weights: MaskedWeights) -> Tensor:
    """Squared L2 norm of all weights a unit owns (producers and consumers), ``(U,)`` float32."""
    out = torch.zeros(weights.num_units + 1, dtype=torch.float32, device=weights.keep.device)
    for parameter in weights.crossed:
        if parameter.parameter.dim() < 2:
            continue
        squares = parameter.squares()
        for axis in parameter.axes.values():
            axis.add_to_units(out, squares[axis.dim].float())
    for blocks in weights.blocks:
        if blocks.parameter.dim() >= 2:
            out[blocks.units] += blocks.reduce(blocks.full_values().square())
    return out[:-1]
