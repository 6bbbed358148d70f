"""What of a model's state a file of plain tensors can hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...errors import ConfigError


def storable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything in a model's state, on the CPU.

    Raises:
        ConfigError: For something else than dense tensors with values, naming the first.
    """
    state = model.state_dict()
    for name, value in state.items():
        reason = _reason_against(value)
        if reason:
            raise ConfigError(f"safetensors files hold dense tensors only, but {name} of the model's state is {reason}")
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def _reason_against(value: Any) -> str:
    """What a value is, and what to do about it; empty for a dense tensor."""
    if not isinstance(value, Tensor):
        return f"something else ({type(value).__name__}): leave it out of the state, or keep it in a file beside"
    if is_lazy(value):
        return "without a shape yet (a lazy layer that no forward pass has reached): take the layer out, or run it once"
    if value.is_quantized:
        return f"quantized ({value.dtype}): save the model before it is quantized"
    if value.layout != torch.strided:
        return f"sparse ({value.layout}): make it dense with to_dense(), or register the buffer with persistent=False"
    if value.is_meta:
        return "on the meta device, without values: load its weights first"
    return ""
