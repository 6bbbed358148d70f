"""What a pruner's groups of channels consist of, in plain values."""

from __future__ import annotations

from torch import Tensor, nn

from fairprune_plugin.masks.groups import ChannelGroup
from fairprune_plugin.torch_pruning import BiFPPruner


def groups_of(model: nn.Module, example: Tensor, **options: object) -> dict[str, ChannelGroup]:
    """The groups of a pruner, by name."""
    pruner = BiFPPruner(model, example, **{"total_steps": 10, **options})
    return {group.channels.name: group.channels for group in pruner.host_groups}


def sites(group: ChannelGroup) -> dict[tuple[str, int], dict[int, int]]:
    """(parameter, dimension) → unit of each position, over everything a group touches."""
    out: dict[tuple[str, int], dict[int, int]] = {}
    for site in group.sites:
        pairs = zip(site.index.tolist(), site.unit.tolist(), strict=True)
        out.setdefault((site.name, site.dim), {}).update(pairs)
    return out


def masked(group: ChannelGroup) -> set[tuple[str, int]]:
    """(parameter, dimension) of what hides a group's channels."""
    return {(site.name, site.dim) for site in group.masked}
