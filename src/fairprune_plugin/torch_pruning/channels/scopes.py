"""Torch-Pruning's ranking options, read once: which groups are ranked together, with which ratio and floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...masks.allocation import GroupLimits, RankingScope, floor_units
from .grouping import HostGroup


@dataclass(frozen=True)
class ScopeKey:
    """Where a group is ranked.

    Attributes:
        name: Groups of the same name are ranked together.
        ratio: Final pruning ratio.
        user_defined: The ratio comes from ``pruning_ratio_dict`` (or is that of heads): a size budget leaves
            such groups alone.
    """

    name: str
    ratio: float
    user_defined: bool


def scope_of(pruner: Any, group: HostGroup) -> ScopeKey:
    """The scope Torch-Pruning would rank a group in: heads, user-defined, isomorphic, global or its own."""
    if group.heads:
        name = "heads" if pruner.global_pruning else f"heads of {group.channels.name}"
        return ScopeKey(name, pruner.final_head_ratio(group.heads[0]), user_defined=True)
    deps = _dependencies(pruner, group) if pruner._layer_to_scope or pruner.isomorphic else []
    for dep in deps:
        for module, function in ((dep.source.module, dep.trigger), (dep.target.module, dep.handler)):
            if module in pruner._layer_to_scope and pruner.DG.is_out_channel_pruning_fn(function):
                name, _members = pruner._layer_to_scope[module]
                return ScopeKey(name, pruner.final_ratio(module), user_defined=True)
    ratio = min(pruner.pruning_ratio, pruner.max_pruning_ratio)
    if pruner.isomorphic:
        pattern = ", ".join(
            f"{type(dep.target.module).__name__}:{pruner.DG.is_out_channel_pruning_fn(dep.handler)}" for dep in deps
        )
        return ScopeKey(f"isomorphic: {pattern}", ratio, user_defined=False)
    if pruner.global_pruning:
        return ScopeKey("global", ratio, user_defined=False)
    return ScopeKey(group.channels.name, ratio, user_defined=False)


def _dependencies(pruner: Any, group: HostGroup) -> list[Any]:
    """What the host's graph couples in a group."""
    channels = list(range(len(group.unit_of_root)))
    return [dep for dep, _ in pruner.DG.get_pruning_group(group.root, group.pruning_fn, channels)]


def ranking_scopes(
    keys: Sequence[ScopeKey], groups: Sequence[HostGroup], initial: dict[str, int]
) -> list[RankingScope]:
    """Channel-budget scopes of all groups.

    Args:
        keys: From :func:`scope_of`, one for each group.
        groups: The groups that are left.
        initial: Units of each scope in the dense model; filled at the first call.
    """
    members: dict[str, list[int]] = {}
    ratios: dict[str, float] = {}
    for index, key in enumerate(keys):
        members.setdefault(key.name, []).append(index)
        ratios.setdefault(key.name, key.ratio)
    scopes = []
    for name, indices in members.items():
        units = sum(groups[index].channels.num_units for index in indices)
        scopes.append(RankingScope(tuple(indices), ratios[name], initial.setdefault(name, units)))
    return scopes


def group_limits(
    groups: Sequence[HostGroup], *, max_pruning_ratio: float, round_to: int | None, initial: dict[str, int]
) -> list[GroupLimits]:
    """Floor and rounding of every group, in units of the mask.

    Args:
        groups: The groups that are left.
        max_pruning_ratio: No layer loses more than this share of its channels.
        round_to: Channels of a layer are a multiple of this.
        initial: Units of each group (by name) in the dense model; filled at the first call.
    """
    limits = []
    start = 0
    for group in groups:
        channels = group.channels
        multiple = 1
        if round_to and not group.heads:
            multiple = round_to // math.gcd(round_to, channels.channels_per_unit)
        dense = initial.setdefault(channels.name, channels.num_units)
        parts = tuple(units.cpu() for units in channels.parts)
        floor = floor_units(dense, max_pruning_ratio, multiple, max(1, len(parts)))
        floor = min(max(floor, group.least_units), channels.num_units)
        limits.append(GroupLimits(slice(start, start + channels.num_units), floor, multiple, parts))
        start += channels.num_units
    return limits
