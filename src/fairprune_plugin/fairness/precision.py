"""The constraint's part of the loss in float32, whatever precision the model runs in."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

REDUCED = (torch.float16, torch.bfloat16)


def widened(logits: Tensor) -> Tensor:
    """Logits of reduced precision as float32: a sum of probabilities over a batch needs its digits, and a loss scaler's
    factor does not fit into float16. What is no tensor stays what it is, for others to refuse."""
    return logits.float() if isinstance(logits, Tensor) and logits.dtype in REDUCED else logits


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Under autocast, products of float32 tensors would be taken in reduced precision; inside of this they are not."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
