"""The example inputs of a pruner: how its model is called on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import shown
from ...errors import ConfigError


class Example:
    """Inputs that a model is traced and measured with.

    Args:
        inputs: A tensor, a tuple (or list) of arguments or a dict of keywords.
        forward_fn: ``(model, inputs) → output``; default: the model is called on them.
    """

    def __init__(self, inputs: Any, forward_fn: Callable[[nn.Module, Any], Any] | None = None) -> None:
        self.inputs = inputs
        self.forward_fn = forward_fn

    def run(self, model: nn.Module) -> Any:
        """One forward pass; returns what the model does."""
        if self.forward_fn is not None:
            return self.forward_fn(model, self.inputs)
        if isinstance(self.inputs, dict):
            return model(**self.inputs)
        if isinstance(self.inputs, tuple | list):
            return model(*self.inputs)
        return model(self.inputs)

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """All floating-point tensors of the output."""
        return [out for out in _tensors(self.run(model)) if out.is_floating_point()]

    def check(self, model: nn.Module, error: Exception) -> None:
        """Whether it is the inputs that the graph could not be built with, which failed with ``error``.

        Raises:
            ConfigError: If the model cannot run on them at all.
        """
        try:
            with torch.no_grad():
                self.run(model)
        except Exception as own:
            given = tuple(self.inputs.shape) if isinstance(self.inputs, Tensor) else shown(self.inputs)
            raise ConfigError(
                f"the model cannot run on example_inputs={given} ({type(own).__name__}: {own}): pass inputs as in "
                "model(example_inputs): a tensor, a tuple of arguments or a dict of keywords, on the model's device"
            ) from error


def _tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in what a model returned, whatever else there is."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
    elif is_dataclass(output):
        yield from _tensors(list(vars(output).values()))
