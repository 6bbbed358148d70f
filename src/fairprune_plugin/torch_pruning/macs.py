"""MACs of a masked model: Torch-Pruning's own count of every layer, as a function of the mask."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ..masks.cost import CostEntry, parameter_axes
from ..masks.masked_weights import MaskedWeights

ForwardFn = Callable[[nn.Module, Any], Any]


def count(model: nn.Module, example_inputs: Any, forward_fn: ForwardFn | None = None) -> tuple[float, int]:
    """MACs of one forward pass of the example inputs and the number of parameters (``tp.utils``)."""
    macs, *_ = _host_count(model, example_inputs, forward_fn)
    return float(macs), sum(parameter.numel() for parameter in model.parameters())


def _host_count(model: nn.Module, example_inputs: Any, forward_fn: ForwardFn | None) -> Any:
    """The host's layer-wise count, without what it prints about keyword inputs."""
    if forward_fn is not None:
        model = _called_by(model, forward_fn)
        # The host divides by the length of the first positional argument, which of a tensor is the batch size.
        example_inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else {"inputs": example_inputs}
    with contextlib.redirect_stdout(io.StringIO()):
        return tp.utils.count_ops_and_params(model, example_inputs, layer_wise=True)


def _called_by(model: nn.Module, forward_fn: ForwardFn) -> nn.Module:
    """The host counts ``model(inputs)`` and knows no ``forward_fn``: a module whose forward is that function."""

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Any) -> Any:
            return forward_fn(self.model, inputs)

    return Called()


def macs_entries(
    model: nn.Module,
    example_inputs: Any,
    weights: MaskedWeights,
    run: Callable[[], Any],
    forward_fn: ForwardFn | None = None,
) -> list[CostEntry]:
    """One cost entry per layer.

    A layer with weights shrinks with the axes of its weight. Layers without (activations, pooling) shrink with
    what feeds them: the last layer before them in the forward pass that puts out as many channels.

    Args:
        model: Dense.
        example_inputs: As for the pruner.
        weights: The mask.
        run: Runs the model once on the example inputs.
        forward_fn: As for the pruner.
    """
    total, _, layer_macs, _ = _host_count(model, example_inputs, forward_fn)
    axes = parameter_axes(weights)
    fed_by = _feeding_axes(model, axes, run)
    entries = []
    for module, macs in layer_macs.items():
        if not macs or any(True for _ in module.children()):
            continue
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            # One crossed axis per dimension; a depthwise kernel or a norm has a single one.
            entries.append(CostEntry(float(macs), tuple(axes.get(id(weight), {}).values())))
        else:
            entries.append(CostEntry(float(macs), fed_by.get(module, ())))
    # The host divides the total by the batch size, but not the counts of the layers.
    scale = float(total) / sum(entry.cost for entry in entries)
    return [CostEntry(entry.cost * scale, entry.axes) for entry in entries]


def _feeding_axes(
    model: nn.Module, axes: dict[int, dict[int, Tensor]], run: Callable[[], Any]
) -> dict[nn.Module, tuple[Tensor, ...]]:
    """For each weightless leaf layer: the channel axis it works on, found by watching one forward pass."""
    known: dict[int, tuple[Tensor, ...]] = {}
    found: dict[nn.Module, tuple[Tensor, ...]] = {}

    def channels(value: Any) -> int | None:
        if isinstance(value, Tensor) and value.dim() > 1:
            return value.shape[1] if value.dim() != 3 else value.shape[-1]
        return None

    def watch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            size = channels(output)
            dim = 1 if getattr(module, "transposed", False) else 0
            axis = axes.get(id(weight), {}).get(dim)
            if size is not None:
                known[size] = (axis,) if axis is not None and len(axis) == size else ()
        elif args:
            size = channels(args[0])
            if size is not None and size in known:
                found[module] = known[size]

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [leaf.register_forward_hook(watch) for leaf in leaves]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found
