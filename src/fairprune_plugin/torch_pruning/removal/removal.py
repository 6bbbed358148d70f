"""Channels leave for good: the hidden units are cut out through the host's dependency graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..channels.grouping import HostGroup


def pruning_groups(pruner: Any, groups: Sequence[HostGroup], hidden: Sequence[Tensor]) -> Iterator[Any]:
    """The host's pruning groups for the hidden units, to ``prune()`` one after the other.

    Args:
        pruner: A Torch-Pruning ``BasePruner``.
        groups: All groups of the mask.
        hidden: For each group, ``(U,)`` bool, True where a unit goes.
    """
    for group, units in zip(groups, hidden, strict=True):
        channels = group.root_channels(units)
        if channels:
            yield _SafeGroup(pruner.DG.get_pruning_group(group.root, group.pruning_fn, channels))
            _update_heads(pruner, group, int(units.sum()))


def prune_in_order(group: Any) -> None:
    """Prunes one of the host's groups; its layer norms stay in order, and nothing enters the host's history."""
    _SafeGroup(group).prune(record_history=False)


class _SafeGroup:
    """A pruning group whose ``prune()`` keeps layer norms in order.

    Torch-Pruning 1.6.1 takes the kept affine of a layer norm in the order of a Python set, which is not sorted
    for wide layers: weights end up at other channels than they belong to. Everything else is the host's.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def prune(self, **options: Any) -> None:
        affine = []
        for dep, idxs in self._group:
            norm = dep.target.module
            if isinstance(norm, nn.LayerNorm) and norm.elementwise_affine:
                gone = torch.zeros(norm.normalized_shape[0], dtype=torch.bool)
                gone[torch.tensor(list(idxs))] = True
                kept = {k: p.detach()[~gone.to(p.device)].clone() for k, p in norm.named_parameters()}
                affine.append((norm, kept))
        self._group.prune(**options)
        with torch.no_grad():
            for norm, kept in affine:
                for key, values in kept.items():
                    getattr(norm, key).copy_(values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def __getitem__(self, position: int) -> Any:
        return self._group[position]

    def __len__(self) -> int:
        return len(self._group)

    def __iter__(self) -> Iterator[Any]:
        return (self._group[i] for i in range(len(self._group)))

    def __str__(self) -> str:
        return str(self._group)


# Names under which attention modules remember their geometry (Hugging Face's BERT, ViT and relatives).
_HEAD_COUNTS = ("num_attention_heads", "num_heads")
_ALL_HEADS = ("all_head_size",)
_HEAD_DIMS = ("head_dim", "attention_head_size")


def _update_heads(pruner: Any, group: HostGroup, removed: int) -> None:
    """Head counts of the host's bookkeeping and of the attention modules that own the projections."""
    for layer in group.heads:
        pruner.num_heads[layer] -= removed
        pruner.out_channel_groups[layer] = pruner.num_heads[layer]
        for parent in pruner.model.modules():
            if any(child is layer for child in parent.children()):
                for name in _HEAD_COUNTS:
                    if isinstance(getattr(parent, name, None), int):
                        setattr(parent, name, pruner.num_heads[layer])
                for name in _ALL_HEADS:
                    if isinstance(getattr(parent, name, None), int):
                        setattr(parent, name, group.channels.channels_per_unit * pruner.num_heads[layer])


class HeadDims:
    """Head sizes that attention modules remember: follows channels that leave the heads; scalings stay as they were.

    A layer may hold queries, keys and values in one, and has then three times the head's size of channels for each head:
    sizes shrink by the share that goes.

    Args:
        pruner: A Torch-Pruning ``BasePruner``, before anything is removed.
    """

    def __init__(self, pruner: Any) -> None:
        self._pruner = pruner
        self._before = [
            (parent, name, getattr(parent, name), layer, self._channels_per_head(layer))
            for layer in pruner.num_heads
            for parent in pruner.model.modules()
            if any(child is layer for child in parent.children())
            for name in _HEAD_DIMS
            if isinstance(getattr(parent, name, None), int)
        ]

    def update(self) -> None:
        """After the removal."""
        for parent, name, size, layer, channels in self._before:
            setattr(parent, name, size * self._channels_per_head(layer) // channels)

    def _channels_per_head(self, layer: nn.Module) -> int:
        return int(self._pruner.DG.get_out_channels(layer)) // int(self._pruner.num_heads[layer])


def head_attributes(pruner: Any) -> dict[str, dict[str, int]]:
    """What attention modules remember of their geometry now: module name → attribute → value."""
    found: dict[str, dict[str, int]] = {}
    for module_name, parent in pruner.model.named_modules():
        if any(child is layer for child in parent.children() for layer in pruner.num_heads):
            for name in (*_HEAD_COUNTS, *_ALL_HEADS, *_HEAD_DIMS):
                if isinstance(getattr(parent, name, None), int):
                    found.setdefault(module_name, {})[name] = int(getattr(parent, name))
    return found
