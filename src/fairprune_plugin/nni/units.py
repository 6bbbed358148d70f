"""From NNI's target spaces to the engine's units: what is masked together, and how a mask looks in a wrapper.

Two kinds of unit sets. *Blocks* need no graph: a unit is a block of a target (a weight, a row, a tile), shared by
the targets of a dependency group, with the rows of biases and batch norms that align with it. *Channels* come
from the dependency graph: the in-channel weights of every consumer are masked, which is exact and keeps the
gradient of hidden channels alive (METHOD section 4); the rows NNI asks for are masked once training is over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import lcm, prod
from typing import Any

import torch
from nni.compression.base.target_space import PruningTargetSpace, TargetType
from torch import Tensor, nn

from ..errors import ConfigError
from ..masks.blocks import expand_blocks
from ..masks.groups import BlockGroup, BlockSite, ChannelSite, UnitGroup
from ..torch_pruning.grouping import HostGroup
from .config_list import read_pattern
from .graph import ChannelGraph, producers

Key = tuple[str, str]  # module name, target name
Spaces = Mapping[str, Mapping[str, PruningTargetSpace]]


@dataclass(frozen=True)
class UnitSet:
    """Units that one sparse goal is about.

    Attributes:
        keys: The targets that share the units.
        group: What the engine masks.
        grain: Weights of the targets that one unit stands for.
        least_units: Units that always stay.
        pattern: ``(N, M)`` of N:M sparsity.
        inside: Whether consumers are masked (channels of the graph) and not the targets themselves.
    """

    keys: tuple[Key, ...]
    group: UnitGroup
    grain: int
    least_units: int = 1
    pattern: tuple[int, int] | None = None
    inside: bool = False


class Units:
    """All unit sets of a pruner, and the masks of its targets as a function of the units kept.

    Args:
        model: Wrapped or not.
        wrappers: NNI's wrappers by module name: where the live parameters are.
        spaces: The pruner's target spaces; frozen wrappers are left as they are.
        graph: For channels; without one every target is masked in blocks.

    Raises:
        ConfigError: If a dependency group or an alignment does not fit its layers, or nothing is to be pruned.
    """

    def __init__(
        self, model: nn.Module, wrappers: Mapping[str, Any], spaces: Spaces, graph: ChannelGraph | None = None
    ) -> None:
        self._wrappers = wrappers
        self._model = model
        order = {name: index for index, (name, _) in enumerate(model.named_modules())}  # NNI's own is a set's
        self._spaces = {
            (module, name): space
            for module, targets in sorted(spaces.items(), key=lambda item: order.get(item[0], len(order)))
            for name, space in targets.items()
            if isinstance(space.target, Tensor) and not wrappers[module].is_frozen
        }
        self._check_types(spaces)
        self._active = {key: space for key, space in self._spaces.items() if _is_active(space)}
        if not self._active:
            raise ConfigError(
                "config_list prunes nothing: no target has a sparse_ratio or sparse_threshold (or all of them were "
                "configured by an earlier compressor, whose masks stay as they are)"
            )
        self._aligned = {key: self._source(key) for key, space in self._spaces.items() if key not in self._active}
        bundles = self._bundles()
        inside = self._inside(bundles, graph)
        self.sets: list[UnitSet] = [
            self._channels(keys, inside[keys]) if keys in inside else self._blocks(keys) for keys in bundles
        ]
        self._check_trainable()
        self.groups: tuple[UnitGroup, ...] = tuple(unit_set.group for unit_set in self.sets)
        self._offsets: dict[Key, tuple[UnitSet, int]] = {}
        offset = 0
        for unit_set in self.sets:
            self._offsets.update({key: (unit_set, offset) for key in unit_set.keys})
            offset += unit_set.group.num_units

    @property
    def keys(self) -> list[Key]:
        """Every target that this pruner masks: active ones and those that align with them."""
        return [key for key in self._spaces if self._root(key) is not None]

    def space(self, key: Key) -> PruningTargetSpace:
        """NNI's target space."""
        return self._spaces[key]

    def trained_bare(self, key: Key) -> bool:
        """Whether a target runs unmasked during training, because its consumers are masked instead."""
        source = self._root(key)
        return source is not None and self._offsets[source][0].inside

    def mask(self, key: Key, keep: Tensor) -> Tensor:
        """NNI's mask of a target, zeros and ones that broadcast to it, when the units ``keep``, ``(U,)``, stay."""
        source = self._root(key)
        assert source is not None
        unit_set, offset = self._offsets[source]
        target = self._target(key)
        if unit_set.inside:
            return self._rows_of_graph(key, keep)
        group = unit_set.group
        assert isinstance(group, BlockGroup)
        kept = keep[offset : offset + group.num_units].to(target)
        for site in group.masked:
            if site.parameter is target:
                return expand_blocks(kept, site)
        align = self._spaces[key].align
        assert align is not None
        mask = self.mask((align["module_name"] or key[0], align["target_name"]), keep)
        mask = mask.expand(self._target((align["module_name"] or key[0], align["target_name"])).shape)
        reduced = [d for d in range(mask.dim()) if d not in align["dims"] and d - mask.dim() not in align["dims"]]
        return (mask.sum(reduced) if reduced else mask).bool().to(target)

    # ---- reading the target spaces -------------------------------------------------------------------------

    def _check_types(self, spaces: Spaces) -> None:
        for module, targets in spaces.items():
            for name, space in targets.items():
                if space.type is not TargetType.PARAMETER:
                    raise ConfigError(f"{module}.{name} is an activation: this pruner masks parameters only")

    def _check_trainable(self) -> None:
        for unit_set in self.sets:
            if not any(site.parameter.requires_grad for site in unit_set.group.masked):
                raise ConfigError(
                    f"{_list(unit_set.keys)}: the weights that the mask multiplies are frozen "
                    f"({', '.join(site.name for site in unit_set.group.masked[:3])}), so that nothing would score their "
                    "units: train them, or leave these layers out (exclude_op_names)"
                )

    def _target(self, key: Key) -> Tensor:
        target = self._spaces[key].target
        assert isinstance(target, Tensor)
        return target

    def _source(self, key: Key) -> Key | None:
        """What an inactive target aligns with, if that is configured at all."""
        align = self._spaces[key].align
        if align is None:
            return None
        source = (align["module_name"] or key[0], align["target_name"])
        if source not in self._spaces:
            if align["module_name"] is None:
                return None
            raise ConfigError(f"{key[0]}.{key[1]} aligns with {source[0]}.{source[1]}, which is not in config_list")
        return source if _is_active(self._spaces[source]) or self._spaces[source].align else None

    def _root(self, key: Key) -> Key | None:
        """The active target whose units a target follows."""
        seen = [key]
        while seen[-1] not in self._active:
            source = self._aligned.get(seen[-1])
            if source is None:
                return None
            if source in seen:
                raise ConfigError(f"the alignments of {', '.join('.'.join(k) for k in seen)} go round in a circle")
            seen.append(source)
        return seen[-1]

    def _bundles(self) -> list[tuple[Key, ...]]:
        """Targets that share units: dependency groups first, every other target on its own."""
        together: dict[Any, list[Key]] = {}
        for key, space in self._spaces.items():
            group = space.dependency_group_id
            if group is not None:
                together.setdefault(("together", group), []).append(key)
            elif key in self._active:
                together[key] = [key]
        bundles = []
        for keys in together.values():
            ratios = {self._spaces[key].sparse_ratio for key in keys} - {None}
            if len(ratios) > 1:
                raise ConfigError(f"{_list(keys)} share a dependency_group_id but have sparse ratios {sorted(ratios)}")
            if ratios or any(key in self._active for key in keys):
                bundles.append(tuple(keys))
        for bundle in bundles:
            self._active.update({key: self._spaces[key] for key in bundle})
        return bundles

    # ---- blocks --------------------------------------------------------------------------------------------

    def _blocks(self, keys: tuple[Key, ...]) -> UnitSet:
        sites = [self._block_site(key) for key in keys]
        counts = {prod(site.grid) for site in sites}
        if len(counts) > 1:
            raise ConfigError(
                f"{_list(keys)} share a dependency_group_id but have {sorted(counts)} units: only layers with equally "
                "many channels can lose them together"
            )
        blocks = reduce(lcm, [self._spaces[key].internal_metric_block or 1 for key in keys])
        num_units, rest = divmod(counts.pop(), blocks)
        if rest or num_units == 0:
            raise ConfigError(f"{_list(keys)}: internal_metric_block {blocks} does not divide the number of units")
        pattern = read_pattern(self._spaces[keys[0]].granularity)
        sites += [site for key in self._aligned if (site := self._aligned_site(key, keys)) is not None]
        grain = sum(self._target(key).numel() for key in keys) // num_units
        name = ".".join(keys[0])
        return UnitSet(keys, BlockGroup(name, num_units, tuple(sites)), grain, pattern=pattern)

    def _block_site(self, key: Key) -> BlockSite:
        space, target = self._spaces[key], self._target(key)
        name = ".".join(key)
        pattern = read_pattern(space.granularity)
        if pattern is not None and (target.dim() < 2 or target.shape[1] % pattern[1]):
            raise ConfigError(
                f"granularity {space.granularity!r} needs a multiple of {pattern[1]} inputs, and {name} has shape "
                f"{tuple(target.shape)}: leave this layer out (exclude_op_names)"
            )
        block = [1] * target.dim()
        if space._scaler is not None:
            kernel, scaler = list(space._scaler.kernel_size), space._scaler
            padding = [scaler.kernel_padding_val] * (target.dim() - len(kernel))
            kernel = padding + kernel if scaler.kernel_padding_mode == "front" else kernel + padding
            if len(kernel) != target.dim():
                raise ConfigError(f"granularity {kernel} of {name} has more dimensions than its shape {target.shape}")
            block = [size if step == -1 else step for step, size in zip(kernel, target.shape, strict=True)]
        if any(step < 1 or size % step for step, size in zip(block, target.shape, strict=True)):
            raise ConfigError(f"granularity {block} does not divide the shape {tuple(target.shape)} of {name}")
        return BlockSite(target, name, tuple(block))

    def _aligned_site(self, key: Key, keys: tuple[Key, ...]) -> BlockSite | None:
        """Rows of a vector (bias, norm affine) that go with the rows of a target; other alignments only mask."""
        root, target = self._root(key), self._target(key)
        align = self._spaces[key].align
        if root not in keys or target.dim() != 1 or align is None or align["dims"] != [0]:
            return None
        grid = self._block_site(root).grid
        if grid[0] != prod(grid):
            return None
        if len(target) != grid[0]:
            raise ConfigError(
                f"{'.'.join(key)} has {len(target)} rows and aligns with {'.'.join(root)}, with {grid[0]}"
            )
        return BlockSite(target, ".".join(key), (1,))

    # ---- channels of the graph -----------------------------------------------------------------------------

    def _inside(
        self, bundles: Sequence[tuple[Key, ...]], graph: ChannelGraph | None
    ) -> dict[tuple[Key, ...], HostGroup]:
        """Unit sets that are exactly one group of channels of the graph, and touch no parameter cut into blocks."""
        found: dict[tuple[Key, ...], HostGroup] = {}
        for bundle in bundles:
            rows = all(key[1] == "weight" and _is_rows(self._block_site(key)) for key in bundle)
            for group in graph.groups if graph is not None and rows else ():
                layers = producers(group)
                # Norms across the channels would need their statistics corrected, which no mask of NNI's does.
                complete = set(layers) == {module for module, _ in bundle} and not group.channels.norms
                if complete and all(bool((units >= 0).all()) for units in layers.values()):
                    found[bundle] = group
        self._graph_sites = {bundle: self._live(group) for bundle, group in found.items()}
        while True:
            cut = {id(self._target(key)) for bundle in bundles if bundle not in found for key in bundle}
            mixed = [
                bundle
                for bundle in found
                if any(id(site.parameter) in cut for sites in self._graph_sites[bundle] for site in sites)
            ]
            if not mixed:
                return found
            for bundle in mixed:
                del found[bundle]

    def _live(self, group: HostGroup) -> tuple[tuple[ChannelSite, ...], tuple[ChannelSite, ...]]:
        """A group's sites with the parameters that are trained: a wrapper's where there is one, which may be that of
        another compressor (a quantizer, say) on a layer that is only read here."""

        def live(site: ChannelSite) -> ChannelSite:
            name, _, key = site.name.rpartition(".")
            module = self._model.get_submodule(name)
            wrapper = getattr(module, "_nni_wrapper", None) or self._wrappers.get(name)
            owner = wrapper if wrapper is not None and key in wrapper._parameters else module
            parameter = owner._parameters[key]
            assert parameter is not None
            return dataclasses.replace(site, parameter=parameter)

        channels = group.channels
        return tuple(map(live, channels.masked)), tuple(map(live, channels.carried))

    def _channels(self, keys: tuple[Key, ...], group: HostGroup) -> UnitSet:
        masked, carried = self._graph_sites[keys]
        channels = dataclasses.replace(group.channels, masked=masked, carried=carried)
        grain = sum(self._target(key).numel() for key in keys) // channels.num_units
        return UnitSet(keys, channels, grain, least_units=group.least_units, inside=True)

    def _rows_of_graph(self, key: Key, keep: Tensor) -> Tensor:
        """Rows of a target that no hidden channel crosses; those of a concatenation have several owners."""
        target = self._target(key)
        mask = torch.ones(target.shape[0], dtype=torch.bool, device=keep.device)
        for unit_set in self.sets:
            if not unit_set.inside:
                continue
            _, offset = self._offsets[unit_set.keys[0]]
            for site in self._graph_sites[unit_set.keys][1]:
                if site.parameter is target and site.dim == 0:
                    mask[site.index] &= keep[site.unit + offset]
        return mask.to(target).reshape([-1] + [1] * (target.dim() - 1))


def _is_active(space: PruningTargetSpace) -> bool:
    return space.sparse_ratio is not None or space.sparse_threshold is not None


def _is_rows(site: BlockSite) -> bool:
    return site.grid[0] == site.parameter.shape[0] == prod(site.grid)


def _list(keys: Sequence[Key]) -> str:
    return ", ".join(".".join(key) for key in keys)
