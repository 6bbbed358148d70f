"""Give a model non-trivial statistics, so that equality tests can fail."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Randomise running statistics, affine parameters and biases of ``model`` in place.

    Running means follow N(0, 0.3), running variances U[0.5, 2], norm weights U[0.5, 1.5] with a random sign,
    PReLU slopes U[0.1, 0.5], and every bias N(0, 0.3). Convolution and linear weights are rescaled to a
    variance of 2 / fan-in, so that a removed channel shows in the output. Other parameters stay as they are.
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(t: Tensor) -> None:
        t.copy_(0.3 * torch.randn(t.shape, generator=rng))

    def uniform(t: Tensor, low: float, high: float) -> None:
        t.copy_(low + (high - low) * torch.rand(t.shape, generator=rng))

    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            normal(module.running_mean)
            uniform(module.running_var, 0.5, 2.0)
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, _NORMS) and isinstance(weight, Tensor):
            uniform(weight, 0.5, 1.5)
            weight.mul_(2 * torch.randint(0, 2, weight.shape, generator=rng) - 1)
        if isinstance(module, nn.PReLU):
            uniform(module.weight, 0.1, 0.5)
        if isinstance(module, (_ConvNd, nn.Linear)):
            module.weight.mul_((2 / module.weight[0].numel()) ** 0.5 / module.weight.std())
        if isinstance(bias, Tensor):
            normal(bias)
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("in_proj_bias", "bias_k", "bias_v"):  # nn.MultiheadAttention
                normal(parameter)
    return model
