"""A copy of a pruner's model that channels can be removed from: what the self check tries masks on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch_pruning as tp
from torch import nn

from ..masks.groups import ChannelSite
from .grouping import HostGroup


class Twin:
    """The copy with a dependency graph of its own; the groups are those of the original, as finding them takes longer.

    Args:
        pruner: A Torch-Pruning ``BasePruner`` with ``host_groups``.
        example_inputs: To trace the copy with.
        options: The host's arguments.

    Attributes:
        model: The copy.
        DG: Its dependency graph.
        groups: The groups, over the copy's layers and parameters.
        num_heads: The host's bookkeeping of attention heads, by the copy's layers.
        out_channel_groups: The same of groups of channels.
    """

    def __init__(self, pruner: Any, example_inputs: Any, options: Mapping[str, Any]) -> None:
        own_functions = options.get("customized_pruners")  # graphs tell pruning functions apart by identity
        settings = {name: options.get(name) for name in ("forward_fn", "output_transform", "unwrapped_parameters")}
        self.model, inputs, settings, ignored = copy.deepcopy(
            (pruner.model, example_inputs, settings, pruner.ignored_params), {id(own_functions): own_functions}
        )
        self.DG = tp.DependencyGraph().build_dependency(
            self.model, inputs, customized_pruners=own_functions, ignored_params=ignored, **settings
        )
        modules = dict(zip(pruner.model.modules(), self.model.modules(), strict=True))
        parameters = dict(zip(map(id, pruner.model.parameters()), self.model.parameters(), strict=True))
        self.num_heads = {modules[layer]: heads for layer, heads in pruner.num_heads.items()}
        self.out_channel_groups = {modules[layer]: number for layer, number in pruner.out_channel_groups.items()}
        self.groups = [_over(group, modules, parameters) for group in pruner.host_groups]


def _over(
    group: HostGroup, modules: Mapping[nn.Module, nn.Module], parameters: Mapping[int, nn.Parameter]
) -> HostGroup:
    """The same group of a copy of the model."""

    def sites(original: Sequence[ChannelSite]) -> tuple[ChannelSite, ...]:
        return tuple(dataclasses.replace(site, parameter=parameters[id(site.parameter)]) for site in original)

    channels = dataclasses.replace(
        group.channels,
        masked=sites(group.channels.masked),
        carried=sites(group.channels.carried),
        norms=tuple(dataclasses.replace(norm, module=modules[norm.module]) for norm in group.channels.norms),
    )
    heads = tuple(modules[layer] for layer in group.heads)
    return dataclasses.replace(group, channels=channels, root=modules[group.root], heads=heads)
