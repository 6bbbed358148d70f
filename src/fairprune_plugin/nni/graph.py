"""Which layers lose channels together: Torch-Pruning's dependency graph by layer names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..engine.measure.evaluate import mode
from ..errors import ConfigError, FairPruneWarning, UnsupportedModelError
from ..masks.groups import ChannelSite, unit_axis
from ..torch_pruning.channels.grouping import HostGroup, host_groups
from ..torch_pruning.channels.tracing import undisturbed

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
# What a model or the host raises for an input or a layer that it cannot handle.
_FAILURES = (LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError)


def check_unwrapped(model: nn.Module, what: str) -> None:
    """Refuses a model that carries NNI's wrappers.

    Raises:
        ConfigError: Also for a deep copy of a wrapped model, whose layers still call the original's wrappers.
    """
    wrapped = [name for name, module in model.named_modules() if hasattr(module, "_nni_wrapper")]
    if wrapped:
        raise ConfigError(
            f"{what} got a model that NNI has wrapped ({wrapped[0]} and {len(wrapped) - 1} more): call "
            "pruner.unwrap_model() first. A deep copy of a wrapped model cannot be unwrapped (its layers belong to "
            "the original's wrappers): unwrap the original and copy it afterwards"
        )


class ChannelGraph:
    """The dependency graph of a model, with the groups of channels that the given layers produce.

    Args:
        model: Not wrapped.
        dummy_input: A tensor, a tuple of arguments or a dict of keywords.
        layers: Names of convolutions and linear layers whose output channels may go.

    Raises:
        ConfigError: If the model does not run on the dummy input.
        UnsupportedModelError: If the graph cannot be built, or a group cannot be masked faithfully.
    """

    def __init__(self, model: nn.Module, dummy_input: Any, layers: Iterable[str]) -> None:
        check_unwrapped(model, "the dependency graph")
        wanted = set(layers)
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        ignored = [m for name, m in model.named_modules() if isinstance(m, LAYERS) and name not in wanted]
        inputs = list(dummy_input) if isinstance(dummy_input, tuple) else dummy_input
        with undisturbed(model), warnings.catch_warnings():
            warnings.simplefilter("ignore", FairPruneWarning)  # layers at the output are named by `reason`
            check_input(model, dummy_input)
            try:
                self.host: Any = tp.pruner.BasePruner(
                    model,
                    inputs,
                    importance=None,
                    pruning_ratio=0.5,
                    ignored_layers=ignored,
                    in_channel_groups={},
                    out_channel_groups={},
                    num_heads={},
                )
            except _FAILURES as error:
                raise UnsupportedModelError(
                    f"Torch-Pruning cannot build a dependency graph of this model ({type(error).__name__}: {error}): "
                    "replace or wrap the layer it stumbles over"
                ) from error
            self.host.frozen_parameters = set()
            self.groups: list[HostGroup] = list(host_groups(self.host))

    def uncovered(self, layers: Iterable[str]) -> list[str]:
        """Those of the layers whose channels are in no group, each with the reason."""
        covered = {name for group in self.groups for name in producers(group)}
        return [f"{name} ({self._reason(name, layers)})" for name in layers if name not in covered]

    def _reason(self, name: str, layers: Iterable[str]) -> str:
        module = self.model.get_submodule(name)
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return "NNI's out_channel is dimension 0, which in a transposed convolution are its inputs"
        if module not in self.host.DG.module2node:
            return "the forward pass of the dummy input does not reach it"
        full = self.host.DG.get_pruning_group(module, tp_out_channels(self.host, module), [0])
        others = sorted(
            {
                self.names[dep.target.module]
                for dep, _ in full
                if isinstance(dep.target.module, LAYERS)
                and dep.target.module in self.names
                and self.host.DG.is_out_channel_pruning_fn(dep.handler)
            }
            - set(layers)
        )
        if others:
            return f"its channels are those of {', '.join(others)}, which the config leaves out"
        return "its channels are the model's output"


def tp_out_channels(host: Any, module: nn.Module) -> Any:
    """Torch-Pruning's function that removes output channels of a layer."""
    return host.DG.get_pruner_of_module(module).prune_out_channels


def producers(group: HostGroup) -> dict[str, Tensor]:
    """Layers whose output channels a group is: name → unit of each output channel, ``(C,)``, −1 for no unit."""
    out: dict[str, Tensor] = {}
    for site in group.channels.carried:
        module, _, key = site.name.rpartition(".")
        # NNI's out_channel is dimension 0. An embedding's channels and a transposed convolution's are not.
        if key == "weight" and site.parameter.dim() > 1 and site.dim == 0:
            out[module] = unit_of_row(site)
    return out


def unit_of_row(site: ChannelSite) -> Tensor:
    """Unit of each position along a site's dimension, ``(C,)`` int64, −1 for none."""
    out = unit_axis(site.parameter.shape[site.dim], site.unit.device)
    out[site.index] = site.unit
    return out


def outputs(model: nn.Module, dummy_input: Any) -> list[Tensor]:
    """All floating-point tensors of the model's output on an input (tensor, tuple or dict), in eval mode."""
    with mode(model, training=False), torch.no_grad():
        if isinstance(dummy_input, Mapping):
            out = model(**dummy_input)
        elif isinstance(dummy_input, tuple | list):
            out = model(*dummy_input)
        else:
            out = model(dummy_input)
    leaves, _ = tree_flatten(out)
    return [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def check_input(model: nn.Module, dummy_input: Any) -> None:
    """Runs the model once on the input.

    Raises:
        ConfigError: If there is none, or the model does not take it.
    """
    forms = "a tensor, a tuple of arguments or a dict of keywords, as model(…) takes it"
    if dummy_input is None:
        raise ConfigError(f"dummy_input is None: expected {forms}")
    try:
        outputs(model, dummy_input)
    except _FAILURES as error:
        raise ConfigError(
            f"the model does not run on the dummy_input ({_describe(dummy_input)}): {type(error).__name__}: {error}; "
            f"expected {forms}, on the model's device"
        ) from error


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype} on {value.device}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_describe(item)}" for key, item in value.items()) or "an empty dict"
    if isinstance(value, tuple | list):
        return ", ".join(_describe(item) for item in value) or "no arguments"
    return type(value).__name__


@contextmanager
def as_config_error(doing: str) -> Iterator[None]:
    """NNI's bare assertions as errors that say what was being done."""
    try:
        yield
    except AssertionError as error:
        raise ConfigError(f"NNI refused {doing}: {error}") from error
