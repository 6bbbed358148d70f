"""A copy of a pruner's model that channels can be removed from: what the self check tries masks on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...masks.groups import ChannelSite
from ..channels.example import Example
from ..channels.graph_copy import copied_graph
from ..channels.grouping import HostGroup
from .model_copy import copied_model


class Twin:
    """The copy with a dependency graph of its own. Graph and groups are those of the original, over the copy's layers: to
    trace the copy and to find them again would take longer than all the rest.

    Args:
        pruner: A Torch-Pruning ``BasePruner`` with ``host_groups``.
        example: How the original is called.

    Attributes:
        model: The copy. It has its own vectors and its own masked weights; weights that nobody writes to, the masks and the
            host least of all, are the original's.
        example: How the copy is called.
        DG: Its dependency graph.
        groups: The groups, over the copy's layers and parameters.
        num_heads: The host's bookkeeping of attention heads, by the copy's layers.
        out_channel_groups: The same of groups of channels.
        masked: The copy's own matrices, each once: those that masks multiply.
    """

    def __init__(self, pruner: Any, example: Example) -> None:
        masked = {id(site.parameter) for group in pruner.host_groups for site in group.channels.masked}
        foreign = bool(pruner.DG.CUSTOMIZED_PRUNERS)  # who knows what they write to
        memo: dict[int, Any] = {}
        self.model = copied_model(pruner.model, lambda p: foreign or p.dim() < 2 or id(p) in masked, memo)
        self.example = Example(example.inputs, copy.deepcopy(example.forward_fn, memo))
        modules = dict(zip(pruner.model.modules(), self.model.modules(), strict=True))
        parameters = dict(zip(map(id, pruner.model.parameters()), self.model.parameters(), strict=True))
        both: dict[Any, Any] = {**modules, **dict(zip(pruner.model.parameters(), self.model.parameters(), strict=True))}
        self.DG = copied_graph(pruner.DG, self.model, both)
        self.num_heads = {modules[layer]: heads for layer, heads in pruner.num_heads.items()}
        self.out_channel_groups = {modules[layer]: number for layer, number in pruner.out_channel_groups.items()}
        self.groups = [_over(group, modules, parameters) for group in pruner.host_groups]
        sites = [site.parameter for group in self.groups for site in group.channels.masked]
        self.masked = list({id(parameter): parameter for parameter in sites if parameter.dim() > 1}.values())


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
