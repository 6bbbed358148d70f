"""MACs of a masked model: Torch-Pruning's own count of every layer, as a function of the mask."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ...engine.measure.evaluate import mode
from ...masks.cost import CostEntry, parameter_axes
from ...masks.masked_weights import MaskedWeights

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
        weight = _weight_of(module)
        if weight is None:
            entries.append(CostEntry(float(macs), fed_by.get(module, ())))
            continue
        # One crossed axis per dimension; a depthwise kernel or a norm has a single one.
        crossed = axes.get(id(weight), {})
        bias = _bias_macs(module, float(macs))
        entries.append(CostEntry(float(macs) - bias, tuple(crossed.values())))
        if bias:
            out = crossed.get(_out_dim(module))
            entries.append(CostEntry(bias, () if out is None else (out,)))
    # The host divides the total by the batch size, but not the counts of the layers.
    scale = float(total) / sum(entry.cost for entry in entries)
    return [CostEntry(entry.cost * scale, entry.axes) for entry in entries]


def _weight_of(module: nn.Module) -> nn.Parameter | None:
    """The weight whose dimensions say what a layer costs; one value for all channels (PReLU) says nothing."""
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, nn.Parameter) and weight.numel() > 1 else None


def _out_dim(module: nn.Module) -> int:
    return 1 if getattr(module, "transposed", False) else 0


def _bias_macs(module: nn.Module, macs: float) -> float:
    """The bias's part of a layer's count, which does not shrink with the layer's inputs."""
    if getattr(module, "bias", None) is None:
        return 0.0
    if isinstance(module, nn.Linear):
        return float(module.out_features)  # the host counts it once, not once per sample
    if isinstance(module, nn.modules.conv._ConvNd):
        return macs / (math.prod(module.kernel_size) * module.in_channels // module.groups + 1)
    return 0.0


def _feeding_axes(
    model: nn.Module, axes: dict[int, dict[int, Tensor]], run: Callable[[], Any]
) -> dict[nn.Module, tuple[Tensor, ...]]:
    """For each weightless leaf layer: the channel axis it works on, found by watching one forward pass.

    A tensor is followed from the layer that made it; what a function outside of any layer has made is matched by
    its number of channels.
    """
    seen: list[Tensor] = []  # keeps the tensors alive: their ids stay theirs
    of_tensor: dict[int, tuple[Tensor, ...]] = {}
    of_size: dict[int, tuple[Tensor, ...]] = {}
    found: dict[nn.Module, tuple[Tensor, ...]] = {}

    def feeding(value: Tensor) -> tuple[Tensor, ...] | None:
        if id(value) in of_tensor:
            return of_tensor[id(value)]
        # Channels are the second dimension of feature maps and the last one of tokens.
        sizes = [value.shape[dim] for dim in ((1, -1) if value.dim() == 3 else (1,)) if value.dim() > 1]
        return next((of_size[size] for size in sizes if size in of_size), None)

    def watch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        weight = _weight_of(module)
        if weight is not None:
            axis = axes.get(id(weight), {}).get(_out_dim(module))
            feeds: tuple[Tensor, ...] | None = () if axis is None else (axis,)
            of_size[weight.shape[_out_dim(module)]] = feeds or ()
        else:
            feeds = feeding(args[0]) if args and isinstance(args[0], Tensor) else None
            if feeds is not None:
                found[module] = feeds
        if feeds is not None:
            seen.append(output)
            of_tensor[id(output)] = feeds

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [leaf.register_forward_hook(watch) for leaf in leaves]
    try:
        with mode(model, training=False), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found
