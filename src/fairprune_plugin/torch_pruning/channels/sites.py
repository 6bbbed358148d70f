"""Where the channels of a group meet parameters: which weights hide a channel, which only go with it, which norms need it.

The rule is that of :mod:`.grouping`: what *reads* a channel is masked, what *writes* or scales it is carried along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning import ops

from ...errors import UnsupportedModelError
from ...masks.groups import ChannelSite, NormSite

CARRIERS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)


class GroupSites:
    """Collects, item by item of a graph group, where its channels meet parameters.

    Args:
        pruner: A Torch-Pruning ``BasePruner``.
        unit_of_root: ``(C,)`` int64 unit of each channel of the group's root.

    Raises:
        UnsupportedModelError: While reading, for a layer over which no mask is exact, or that the graph gets wrong.
    """

    def __init__(self, pruner: Any, unit_of_root: Tensor) -> None:
        self._pruner = pruner
        self._unit_of_root = unit_of_root
        self._known: dict[tuple[int, ...], Tensor] = {}
        self.masked: list[ChannelSite] = []
        self.carried: list[ChannelSite] = []
        self.norms: list[NormSite] = []
        self.layers: list[str] = []
        self.depthwise = False

    def read(self, dep: Any, idxs: Sequence[int], root_idxs: Sequence[int]) -> None:
        """Takes an item of the group: channels ``idxs`` of a layer, which belong to channels ``root_idxs`` of the root."""
        module = dep.target.module
        if isinstance(module, nn.Parameter):
            name = self._pruner.DG._param_to_name[module]
            self.layers.append(name)
            self._add(self.carried, module, name, dep.target.pruning_dim, *self._tensors(idxs, root_idxs))
            return
        name = self._pruner.DG._module2name.get(module)
        if name is None:  # an operation of the graph (add, concat, reshape), not a layer
            return
        self.layers.append(name)
        if None in root_idxs:
            raise UnsupportedModelError(f"the dependency graph cannot tell which channels of {name} go together")
        index, unit = self._tensors(idxs, root_idxs)
        outwards = self._pruner.DG.is_out_channel_pruning_fn(dep.handler)
        if isinstance(module, nn.modules.conv._ConvNd):
            self._read_conv(module, name, outwards, index, unit)
        elif isinstance(module, nn.Linear):
            if outwards:
                self._add_layer(module, name, 0, index, unit)
            else:
                self._add(self.masked, module.weight, f"{name}.weight", 1, index, unit)
        elif isinstance(module, CARRIERS):
            self._add_layer(module, name, 0, index, unit)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            self._read_norm(module, name, index, unit)
        elif isinstance(module, nn.Embedding):
            self._add(self.carried, module.weight, f"{name}.weight", 1, index, unit)
        elif any(True for _ in module.parameters(recurse=False)):
            raise UnsupportedModelError(
                f"{name} ({type(module).__name__}) shares channels with {', '.join(self.layers[:4])} and no mask "
                "over it is exact: add it and its neighbours to ignored_layers"
            )

    def _read_conv(self, conv: Any, name: str, outwards: bool, index: Tensor, unit: Tensor) -> None:
        if ops.module2type(conv) == ops.OPTYPE.DEPTHWISE_CONV:
            self.depthwise = True
            self._add_layer(conv, name, 0, index, unit)
        elif conv.transposed and conv.groups > 1:
            raise UnsupportedModelError(
                f"{name} is a grouped transposed convolution, which Torch-Pruning cannot prune: add it and its "
                "neighbours to ignored_layers"
            )
        elif outwards:
            self._add_layer(conv, name, 1 if conv.transposed else 0, index, unit)
        else:
            # A grouped convolution stores in-channel c of every group in column c mod (in / groups).
            per_group = conv.in_channels // conv.groups
            dim = 0 if conv.transposed else 1
            self._add(self.masked, conv.weight, f"{name}.weight", dim, index % per_group, unit)

    def _read_norm(self, norm: Any, name: str, index: Tensor, unit: Tensor) -> None:
        if isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) > 1:
            raise UnsupportedModelError(
                f"{name} normalises over several dimensions {tuple(norm.normalized_shape)}: its statistics cannot "
                "be taken over the kept channels; add its neighbours to ignored_layers"
            )
        size = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.normalized_shape[0]
        self._check_range(name, index, size)
        channels = torch.full((size,), -1, dtype=torch.long)
        channels[index] = unit
        device = norm.weight.device if norm.weight is not None else next(self._pruner.model.parameters()).device
        self.norms.append(NormSite(norm, channels.to(device)))
        self._add_layer(norm, name, 0, index, unit)

    def mask_queries(self, qkv_layers: Sequence[nn.Module]) -> None:
        """Head dimensions: q·k has no consumer weight, so rows of the projections are masked instead.

        Two of the three are: whichever of them is the value, at least one of query and key is among them.
        """
        wanted = {id(p) for layer in qkv_layers[:2] for p in layer.parameters(recurse=False)}
        rows = [site for site in self.carried if id(site.parameter) in wanted]
        self.carried = [site for site in self.carried if id(site.parameter) not in wanted]
        self.masked += rows

    def _tensors(self, idxs: Sequence[int], root_idxs: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Positions and the unit of each, ``(k,)`` int64 both."""
        return self._tensor(idxs), self._unit_of_root[self._tensor(root_idxs)]

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        """Most layers of a group have its channels in the same order: a list is read once."""
        key = tuple(numbers)
        if key not in self._known:
            self._known[key] = torch.tensor(numbers, dtype=torch.long)
        return self._known[key]

    def _add_layer(self, module: Any, name: str, dim: int, index: Tensor, unit: Tensor) -> None:
        """The channels' own weights: rows of the kernel along ``dim``, and the bias (or affine)."""
        for key, parameter in module.named_parameters(recurse=False):
            along = dim if parameter.dim() > 1 else 0
            if parameter.dim() == 1 and parameter.shape[0] == 1 and len(index) > 1:
                continue  # one value for all channels (PReLU's default) stays
            self._add(self.carried, parameter, f"{name}.{key}", along, index, unit)

    def _add(
        self, sites: list[ChannelSite], parameter: Tensor, name: str, dim: int, index: Tensor, unit: Tensor
    ) -> None:
        dim = dim % parameter.dim()
        self._check_range(name, index, parameter.shape[dim])
        sites.append(ChannelSite(parameter, name, dim, index.to(parameter.device), unit.to(parameter.device)))

    def _check_range(self, name: str, index: Tensor, size: int) -> None:
        """The graph can lose its way; seen with the branches of a concatenation that is flattened afterwards."""
        last = int(index.max()) if len(index) else 0
        if last >= size:
            raise UnsupportedModelError(
                f"Torch-Pruning's dependency graph asks for channel {last} of {name}, which has {size}: it cannot "
                f"follow how the channels of {', '.join(self.layers)} meet (a concatenation that is flattened?); add "
                "these layers to ignored_layers, or pool to one value per channel before flattening"
            )
