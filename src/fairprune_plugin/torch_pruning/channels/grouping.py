"""From Torch-Pruning's dependency graph to groups of channels a mask can hide.

The rule (docs/method.md, "Where the mask is multiplied in"): a channel is hidden by zeroing the in-channel weights of
*every consumer*. That is exact whatever the layers in between do to a single channel, and it keeps the score's gradient
alive, because the producers still run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning import ops

from ...errors import ConfigError, UnsupportedModelError
from ...masks.groups import ChannelGroup
from ...warn import warn_caller
from .computed_weights import refuse_computed
from .sites import GroupSites


@dataclass(frozen=True)
class HostGroup:
    """A group of channels and how to tell Torch-Pruning about it.

    Attributes:
        channels: What the mask needs.
        root: Module the host prunes to remove channels of this group.
        pruning_fn: The host's function for it.
        unit_of_root: ``(C,)`` int64 unit of each channel of the root.
        heads: Layers whose number of heads shrinks with the units (whole-head pruning), else empty.
        least_units: Units below which the host would read the pruned layers as something else.
    """

    channels: ChannelGroup
    root: nn.Module
    pruning_fn: Callable[..., Any]
    unit_of_root: Tensor
    heads: tuple[nn.Module, ...] = ()
    least_units: int = 1

    def root_channels(self, units: Tensor) -> list[int]:
        """Channels of the root that belong to the units marked in ``(U,)`` bool."""
        channels: list[int] = units.cpu()[self.unit_of_root].nonzero().reshape(-1).tolist()
        return channels


def host_groups(pruner: Any) -> Iterator[HostGroup]:
    """All prunable groups of a Torch-Pruning ``BasePruner``; those that feed the model's output are protected.

    Raises:
        UnsupportedModelError: For a group that no mask can hide faithfully, naming its layers.
    """
    protected: list[str] = []
    names: set[str] = set()
    frozen = pruner.frozen_parameters
    graph_groups = pruner.DG.get_all_groups(
        ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
    )
    for graph_group in graph_groups:
        if any(_is_output(pruner, dep) for dep, _ in graph_group):
            protected.append(_name(pruner, graph_group[0].dep.target.module))
            continue
        group = _host_group(pruner, graph_group)
        # Channels that only frozen layers read get no gradient and thus no score: they stay.
        if group is not None and any(id(site.parameter) not in frozen for site in group.channels.masked):
            yield _named_apart(pruner, group, names)
    if protected:
        warn_caller(
            f"the channels of {', '.join(protected)} are the model's outputs and are kept: pass "
            "ignored_layers=[…] with the output layers to say so yourself"
        )


def _named_apart(pruner: Any, group: HostGroup, names: set[str]) -> HostGroup:
    """Inputs and outputs of one layer may be two groups: budgets and states go by their names."""
    name = group.channels.name
    if name in names:
        side = "outputs" if pruner.DG.is_out_channel_pruning_fn(group.pruning_fn) else "inputs"
        group = replace(group, channels=replace(group.channels, name=f"{name} ({side})"))
    names.add(group.channels.name)
    return group


def find_group(groups: Sequence[HostGroup], graph_group: Any) -> tuple[int, Tensor] | None:
    """Which of our groups one of Torch-Pruning's is, and the root channel of each of its entries."""
    for index, own in enumerate(groups):
        for i in range(len(graph_group)):
            dep = graph_group[i].dep
            if dep.target.module is own.root and dep.handler == own.pruning_fn:
                by_root = dict(zip(graph_group[i].root_idxs, graph_group[i].idxs, strict=True))
                return index, torch.tensor([by_root[root] for root in graph_group[0].idxs])
    return None


def _is_output(pruner: Any, dep: Any) -> bool:
    """Whether pruning this item would change the model's output: an output node, or a last layer's rows."""
    if isinstance(dep.target.module, ops._OutputOp):
        return True
    producer = isinstance(dep.target.module, nn.Module) and pruner.DG.is_out_channel_pruning_fn(dep.handler)
    return producer and not dep.target.outputs


def _tied_units(pruner: Any, graph_group: Any) -> Tensor:
    """Units when channels of the root imply each other (a layer split into halves that meet again, GLU).

    The graph keeps one root per position, so such ties do not show in the full group; they show in the group
    of a single channel.
    """
    root = graph_group[0].dep
    size = len(graph_group[0].idxs)
    owner = list(range(size))
    for channel in range(size):
        closure = pruner.DG.get_pruning_group(root.target.module, root.handler, [channel])[0].idxs
        first = min(owner[other] for other in closure)
        for other in closure:
            owner[other] = first
    units = sorted(set(owner))
    return torch.tensor([units.index(first) for first in owner])


def _host_group(pruner: Any, graph_group: Any) -> HostGroup | None:
    is_attention, qkv_layers = pruner._is_atten_group(graph_group)
    if is_attention:
        graph_group = pruner._downstream_node_as_root_if_attention(graph_group)
        if graph_group is None or not (_prunes_heads(pruner, qkv_layers) or pruner.prune_head_dims):
            return None
    root = graph_group[0].dep
    refuse_computed(pruner.model, _name(pruner, root.target.module), (dep.target.module for dep, _ in graph_group))
    size = len(graph_group[0].idxs)
    whole_heads = is_attention and _prunes_heads(pruner, qkv_layers)
    if whole_heads:
        num_heads = {pruner.num_heads[layer] for layer in qkv_layers}
        if len(num_heads) > 1:
            raise UnsupportedModelError(
                f"{_name(pruner, root.target.module)}: grouped-query attention (head counts {sorted(num_heads)}) "
                "cannot lose whole heads faithfully: leave its layers out of num_heads and ignore them"
            )
        heads = num_heads.pop()
        _refuse_uneven(pruner, root, size, heads, "heads")
        head_dim = size // heads
        unit_of_root = torch.arange(size) // head_dim
    elif _has_ties(graph_group, size):
        unit_of_root = _tied_units(pruner, graph_group)
    else:
        blocks = pruner._get_channel_groups(graph_group)
        _refuse_uneven(pruner, root, size, blocks, "channel groups or heads")
        unit_of_root = torch.arange(size) % (size // blocks)
    num_units = int(unit_of_root.max()) + 1
    sites = GroupSites(pruner, unit_of_root)
    for position in range(len(graph_group)):
        item = graph_group[position]
        sites.read(item.dep, item.idxs, item.root_idxs)
    if is_attention and not whole_heads:
        sites.mask_queries(qkv_layers)
    name = _name(pruner, root.target.module)
    if not sites.masked:
        raise UnsupportedModelError(
            f"nothing reads the channels of {name} through a weight, so a mask cannot hide them "
            f"(layers: {', '.join(sites.layers)}): add these layers to ignored_layers"
        )
    channels = ChannelGroup(
        name=name,
        num_units=num_units,
        channels_per_unit=size // num_units,
        masked=tuple(sites.masked),
        carried=tuple(sites.carried),
        norms=tuple(sites.norms),
        layers=tuple(sites.layers),
    )
    heads = tuple(qkv_layers) if whole_heads else ()
    # With one unit left, a grouped convolution has as many outputs as groups, and Torch-Pruning takes it for a
    # depthwise one from then on; a depthwise convolution of one channel it takes for an ordinary one.
    least = 2 if sites.depthwise or (channels.channels_per_unit > 1 and not heads) else 1
    return HostGroup(channels, root.target.module, root.handler, unit_of_root, heads, least)


def _refuse_uneven(pruner: Any, root: Any, size: int, blocks: int, what: str) -> None:
    if size % blocks:
        raise ConfigError(
            f"{_name(pruner, root.target.module)} has {size} channels, which {blocks} {what} cannot share: pass a "
            "number in num_heads, in_channel_groups or out_channel_groups that divides them"
        )


def _has_ties(graph_group: Any, size: int) -> bool:
    readers = (
        graph_group[i].root_idxs
        for i in range(len(graph_group))
        if isinstance(graph_group[i].dep.target.module, nn.Linear | nn.modules.conv._ConvNd)
    )
    return any(len(set(roots)) < size for roots in readers if None not in roots)


def _prunes_heads(pruner: Any, qkv_layers: Sequence[nn.Module]) -> bool:
    return bool(pruner.prune_num_heads) and pruner.final_head_ratio(qkv_layers[0]) > 0


def _name(pruner: Any, module: nn.Module) -> str:
    return str(pruner.DG._module2name.get(module, type(module).__name__))
