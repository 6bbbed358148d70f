"""A copy of a model that has its own weights only where somebody will write to them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn


def copied_model(model: nn.Module, written: Callable[[nn.Parameter], bool], memo: dict[int, Any]) -> nn.Module:
    """What ``copy.deepcopy(model)`` makes, in half of its time and a fraction of the memory.

    Args:
        model: To be copied.
        written: Whether the values of a parameter of the copy will be overwritten; the others share their memory with the
            original's.
        memo: Of ``copy.deepcopy``, for what else refers to parts of the model; gets the copies.
    """
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:  # other kinds have ways of their own to be copied
            values = parameter.data.clone() if written(parameter) else parameter.data
            memo[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
    return copy.deepcopy(model, memo)
