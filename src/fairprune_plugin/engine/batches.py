"""One batch of a user's loader: inputs, targets and sensitive attribute, on the model's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError

Forward = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Batch:
    """Inputs (anything the forward function takes), targets ``(N,)`` and group ids ``(N,)`` or ``None``."""

    inputs: Any
    targets: Tensor
    sensitive: Tensor | None


def read_batch(raw: Any, model: nn.Module) -> Batch:
    """Takes ``(x, y, s)`` or ``(x, y)`` apart and moves it to where the model is.

    Raises:
        DataError: If the loader yields something else.
    """
    if not isinstance(raw, tuple | list) or len(raw) not in (2, 3):
        what = f"{len(raw)} items" if isinstance(raw, tuple | list) else type(raw).__name__
        raise DataError(f"expected batches (x, y, s): inputs, targets, sensitive attribute; the loader yields {what}")
    device = next(model.parameters()).device
    inputs, targets, *rest = (_move(part, device) for part in raw)
    return Batch(inputs, targets, rest[0] if rest else None)


def default_forward(model: nn.Module, inputs: Any) -> Tensor:
    """``model(x)``; a mapping is passed as keywords, a tuple as arguments; ``.logits`` is taken if there is one."""
    if isinstance(inputs, Mapping):
        out = model(**inputs)
    elif isinstance(inputs, tuple | list):
        out = model(*inputs)
    else:
        out = model(inputs)
    logits: Tensor = getattr(out, "logits", out)
    return logits


def _move(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if isinstance(part, Mapping):
        return {key: _move(value, device) for key, value in part.items()}
    if isinstance(part, tuple | list):
        return type(part)(_move(value, device) for value in part)
    return part
