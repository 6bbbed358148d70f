"""Units of the dependency graph: channels that are masked where they are read.

Masking the in-channel weights of every consumer is exact and keeps the gradient of hidden channels alive (docs/method.md);
the rows NNI asks for are masked once training is over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..masks.groups import BlockSite, ChannelSite
from ..torch_pruning.channels.grouping import HostGroup
from .block_units import block_site
from .graph import ChannelGraph, producers
from .targets import Targets
from .unit_set import Key, UnitSet

Bundle = tuple[Key, ...]


class ChannelUnits:
    """Bundles of targets that are exactly one group of channels of the graph, and touch no parameter cut into blocks.

    Args:
        model: Wrapped or not.
        wrappers: NNI's wrappers by module name: where the live parameters are.
        targets: Of the pruner.
        bundles: All of theirs.
        graph: Without one, no bundle is such a group.
    """

    def __init__(
        self,
        model: nn.Module,
        wrappers: Mapping[str, Any],
        targets: Targets,
        bundles: Sequence[Bundle],
        graph: ChannelGraph | None,
    ) -> None:
        self._model = model
        self._wrappers = wrappers
        self._targets = targets
        self._groups = self._found(bundles, graph)
        self._sites = {bundle: self._live(group) for bundle, group in self._groups.items()}
        self._leave_out_cut(bundles)

    def __contains__(self, bundle: Bundle) -> bool:
        return bundle in self._groups

    def unit_set(self, bundle: Bundle) -> UnitSet:
        """The units of such a bundle."""
        group = self._groups[bundle]
        masked, carried = self._sites[bundle]
        channels = dataclasses.replace(group.channels, masked=masked, carried=carried)
        grain = sum(self._targets.tensor(key).numel() for key in bundle) // channels.num_units
        return UnitSet(bundle, channels, grain, least_units=group.least_units, inside=True)

    def rows(self, key: Key, keep: Tensor, offsets: Mapping[Bundle, int]) -> Tensor:
        """Mask of the rows of a target that no hidden channel crosses; those of a concatenation have several owners.

        Args:
            key: The target.
            keep: ``(U,)`` bool, the units that stay.
            offsets: Position of each bundle's first unit in it.
        """
        target = self._targets.tensor(key)
        mask = torch.ones(target.shape[0], dtype=torch.bool, device=keep.device)
        for bundle in self._groups:
            for site in self._sites[bundle][1]:
                if site.parameter is target and site.dim == 0:
                    mask[site.index] &= keep[site.unit + offsets[bundle]]
        return mask.to(target).reshape([-1] + [1] * (target.dim() - 1))

    def _found(self, bundles: Sequence[Bundle], graph: ChannelGraph | None) -> dict[Bundle, HostGroup]:
        found: dict[Bundle, HostGroup] = {}
        for bundle in bundles:
            rows = all(key[1] == "weight" and _is_rows(block_site(self._targets, key)) for key in bundle)
            blocks = {key[0]: self._targets.space(key).internal_metric_block or 1 for key in bundle}
            for group in graph.groups if graph is not None and rows else ():
                layers = producers(group)
                # Norms across the channels would need their statistics corrected, which no mask of NNI's does.
                complete = set(layers) == {module for module, _ in bundle} and not group.channels.norms
                if complete and all(_of_blocks(units, blocks[layer]) for layer, units in layers.items()):
                    found[bundle] = group
        return found

    def _leave_out_cut(self, bundles: Sequence[Bundle]) -> None:
        """A group that crosses a parameter which is cut into blocks is cut into blocks itself, and so on."""
        while True:
            cut = {id(self._targets.tensor(key)) for bundle in bundles if bundle not in self for key in bundle}
            mixed = [
                bundle
                for bundle in self._groups
                if any(id(site.parameter) in cut for sites in self._sites[bundle] for site in sites)
            ]
            if not mixed:
                return
            for bundle in mixed:
                del self._groups[bundle]

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


def _is_rows(site: BlockSite) -> bool:
    return site.grid[0] == site.parameter.shape[0] == prod(site.grid)


def _of_blocks(units: Tensor, blocks: int) -> bool:
    """Whether all rows have a unit, ``(R,)``, and blocks of them (``internal_metric_block``) the same ones."""
    if bool((units < 0).any()) or len(units) % blocks:
        return False
    parts = units.reshape(blocks, -1)
    return bool((parts == parts[0]).all())
