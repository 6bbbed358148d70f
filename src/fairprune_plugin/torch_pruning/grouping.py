"""From Torch-Pruning's dependency graph to groups of channels a mask can hide.

The rule (METHOD section 4): a channel is hidden by zeroing the in-channel weights of *every consumer*. That is
exact whatever the layers in between do to a single channel, and it keeps the score's gradient alive, because
the producers still run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning import ops

from ..errors import FairPruneWarning, UnsupportedModelError
from ..masks.groups import ChannelGroup, ChannelSite, NormSite

CARRIERS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)


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
        return [int(i) for i in units.cpu()[self.unit_of_root].nonzero().reshape(-1)]


def host_groups(pruner: Any) -> Iterator[HostGroup]:
    """All prunable groups of a Torch-Pruning ``BasePruner``; those that feed the model's output are protected.

    Raises:
        UnsupportedModelError: For a group that no mask can hide faithfully, naming its layers.
    """
    protected: list[str] = []
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
            yield group
    if protected:
        warnings.warn(
            f"the channels of {', '.join(protected)} are the model's outputs and are kept: pass "
            "ignored_layers=[…] with the output layers to say so yourself",
            FairPruneWarning,
            stacklevel=4,
        )


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
    size = len(graph_group[0].idxs)
    whole_heads = is_attention and _prunes_heads(pruner, qkv_layers)
    if whole_heads:
        num_heads = {pruner.num_heads[layer] for layer in qkv_layers}
        if len(num_heads) > 1:
            raise UnsupportedModelError(
                f"{_name(pruner, root.target.module)}: grouped-query attention (head counts {sorted(num_heads)}) "
                "cannot lose whole heads faithfully: leave its layers out of num_heads and ignore them"
            )
        head_dim = size // num_heads.pop()
        unit_of_root = torch.arange(size) // head_dim
    elif _has_ties(graph_group, size):
        unit_of_root = _tied_units(pruner, graph_group)
    else:
        unit_of_root = torch.arange(size) % (size // pruner._get_channel_groups(graph_group))
    num_units = int(unit_of_root.max()) + 1
    sites = _Sites(pruner, unit_of_root)
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


def _has_ties(graph_group: Any, size: int) -> bool:
    readers = (
        graph_group[i].root_idxs
        for i in range(len(graph_group))
        if isinstance(graph_group[i].dep.target.module, nn.Linear | nn.modules.conv._ConvNd)
    )
    return any(len(set(roots)) < size for roots in readers if None not in roots)


def _prunes_heads(pruner: Any, qkv_layers: Sequence[nn.Module]) -> bool:
    return bool(pruner.prune_num_heads) and pruner.final_head_ratio(qkv_layers[0]) > 0


class _Sites:
    """Collects, item by item of a graph group, where its channels meet parameters."""

    def __init__(self, pruner: Any, unit_of_root: Tensor) -> None:
        self._pruner = pruner
        self._unit_of_root = unit_of_root
        self.masked: list[ChannelSite] = []
        self.carried: list[ChannelSite] = []
        self.norms: list[NormSite] = []
        self.layers: list[str] = []
        self.depthwise = False

    def read(self, dep: Any, idxs: Sequence[int], root_idxs: Sequence[int]) -> None:
        module = dep.target.module
        if isinstance(module, nn.Parameter):
            name = self._pruner.DG._param_to_name[module]
            self.layers.append(name)
            self._add(self.carried, module, name, dep.target.pruning_dim, idxs, root_idxs)
            return
        name = self._pruner.DG._module2name.get(module)
        if name is None:  # an operation of the graph (add, concat, reshape), not a layer
            return
        self.layers.append(name)
        if any(root is None for root in root_idxs):
            raise UnsupportedModelError(f"the dependency graph cannot tell which channels of {name} go together")
        outwards = self._pruner.DG.is_out_channel_pruning_fn(dep.handler)
        if isinstance(module, nn.modules.conv._ConvNd):
            self._read_conv(module, name, outwards, idxs, root_idxs)
        elif isinstance(module, nn.Linear):
            if outwards:
                self._add_layer(module, name, 0, idxs, root_idxs)
            else:
                self._add(self.masked, module.weight, f"{name}.weight", 1, idxs, root_idxs)
        elif isinstance(module, CARRIERS):
            self._add_layer(module, name, 0, idxs, root_idxs)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            self._read_norm(module, name, idxs, root_idxs)
        elif isinstance(module, nn.Embedding):
            self._add(self.carried, module.weight, f"{name}.weight", 1, idxs, root_idxs)
        elif any(True for _ in module.parameters(recurse=False)):
            raise UnsupportedModelError(
                f"{name} ({type(module).__name__}) shares channels with {', '.join(self.layers[:4])} and no mask "
                "over it is exact: add it and its neighbours to ignored_layers"
            )

    def _read_conv(self, conv: Any, name: str, outwards: bool, idxs: Sequence[int], root_idxs: Sequence[int]) -> None:
        if ops.module2type(conv) == ops.OPTYPE.DEPTHWISE_CONV:
            self.depthwise = True
            self._add_layer(conv, name, 0, idxs, root_idxs)
        elif conv.transposed and conv.groups > 1:
            raise UnsupportedModelError(
                f"{name} is a grouped transposed convolution, which Torch-Pruning cannot prune: add it and its "
                "neighbours to ignored_layers"
            )
        elif outwards:
            self._add_layer(conv, name, 1 if conv.transposed else 0, idxs, root_idxs)
        else:
            # A grouped convolution stores in-channel c of every group in column c mod (in / groups).
            per_group = conv.in_channels // conv.groups
            columns = [index % per_group for index in idxs]
            dim = 0 if conv.transposed else 1
            self._add(self.masked, conv.weight, f"{name}.weight", dim, columns, root_idxs)

    def _read_norm(self, norm: Any, name: str, idxs: Sequence[int], root_idxs: Sequence[int]) -> None:
        if isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) > 1:
            raise UnsupportedModelError(
                f"{name} normalises over several dimensions {tuple(norm.normalized_shape)}: its statistics cannot "
                "be taken over the kept channels; add its neighbours to ignored_layers"
            )
        size = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.normalized_shape[0]
        self._check_range(name, idxs, size)
        unit = torch.full((size,), -1, dtype=torch.long)
        unit[torch.tensor(list(idxs))] = self._unit_of_root[torch.tensor(list(root_idxs))]
        device = norm.weight.device if norm.weight is not None else next(self._pruner.model.parameters()).device
        self.norms.append(NormSite(norm, unit.to(device)))
        self._add_layer(norm, name, 0, idxs, root_idxs)

    def mask_queries(self, qkv_layers: Sequence[nn.Module]) -> None:
        """Head dimensions: q·k has no consumer weight, so rows of the projections are masked instead.

        Two of the three are: whichever of them is the value, at least one of query and key is among them.
        """
        wanted = {id(p) for layer in qkv_layers[:2] for p in layer.parameters(recurse=False)}
        rows = [site for site in self.carried if id(site.parameter) in wanted]
        self.carried = [site for site in self.carried if id(site.parameter) not in wanted]
        self.masked += rows

    def _add_layer(self, module: Any, name: str, dim: int, idxs: Sequence[int], root_idxs: Sequence[int]) -> None:
        """The channels' own weights: rows of the kernel along ``dim``, and the bias (or affine)."""
        for key, parameter in module.named_parameters(recurse=False):
            along = dim if parameter.dim() > 1 else 0
            if parameter.dim() == 1 and parameter.shape[0] == 1 and len(idxs) > 1:
                continue  # one value for all channels (PReLU's default) stays
            self._add(self.carried, parameter, f"{name}.{key}", along, idxs, root_idxs)

    def _add(
        self,
        sites: list[ChannelSite],
        parameter: Tensor,
        name: str,
        dim: int,
        idxs: Sequence[int],
        root_idxs: Sequence[int],
    ) -> None:
        unit = self._unit_of_root[torch.tensor(list(root_idxs))]
        dim = dim % parameter.dim()
        self._check_range(name, idxs, parameter.shape[dim])
        index = torch.tensor(list(idxs)).to(parameter.device)
        sites.append(ChannelSite(parameter, name, dim, index, unit.to(parameter.device)))

    def _check_range(self, name: str, idxs: Sequence[int], size: int) -> None:
        """The graph can lose its way; seen with the branches of a concatenation that is flattened afterwards."""
        if max(idxs, default=0) >= size:
            raise UnsupportedModelError(
                f"Torch-Pruning's dependency graph asks for channel {max(idxs)} of {name}, which has {size}: it cannot "
                f"follow how the channels of {', '.join(self.layers)} meet (a concatenation that is flattened?); add "
                "these layers to ignored_layers, or pool to one value per channel before flattening"
            )


def _name(pruner: Any, module: nn.Module) -> str:
    return str(pruner.DG._module2name.get(module, type(module).__name__))
