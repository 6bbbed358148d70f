"""From NNI's target spaces to the engine's units: what is masked together, and how a mask looks in a wrapper.

Two kinds of unit sets. *Blocks* need no graph: a unit is a block of a target (a weight, a row, a tile), shared by
the targets of a dependency group, with the rows of biases and batch norms that align with it. *Channels* come
from the dependency graph: the in-channel weights of every consumer are masked, which is exact and keeps the
gradient of hidden channels alive (docs/method.md); the rows NNI asks for are masked once training is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nni.compression.base.target_space import PruningTargetSpace
from torch import Tensor, nn

from ..errors import ConfigError
from ..masks.blocks import expand_blocks
from ..masks.groups import BlockGroup, UnitGroup
from .block_units import block_units
from .channel_units import Bundle, ChannelUnits
from .graph import ChannelGraph
from .targets import Spaces, Targets
from .unit_set import Key, UnitSet, listed


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
        self._model = model
        self._targets = Targets(model, wrappers, spaces)
        bundles = self._targets.bundles()
        self._channels = ChannelUnits(model, wrappers, self._targets, bundles, graph)
        self.sets: list[UnitSet] = [
            self._channels.unit_set(keys) if keys in self._channels else block_units(self._targets, keys)
            for keys in bundles
        ]
        self._check_trainable()
        self.groups: tuple[UnitGroup, ...] = tuple(unit_set.group for unit_set in self.sets)
        self._set_of: dict[Key, UnitSet] = {}
        self._starts: dict[Bundle, int] = {}
        start = 0
        for unit_set in self.sets:
            self._set_of.update(dict.fromkeys(unit_set.keys, unit_set))
            self._starts[unit_set.keys] = start
            start += unit_set.group.num_units
        self._check_alignments(start)

    @property
    def single(self) -> Tensor:
        """Which units are single weights, ``(U,)`` bool."""
        return torch.cat([torch.full((s.group.num_units,), s.grain == 1 and not s.inside) for s in self.sets])

    @property
    def keys(self) -> list[Key]:
        """Every target that this pruner masks: active ones and those that align with them."""
        return [key for key in self._targets if self._targets.root(key) is not None]

    def space(self, key: Key) -> PruningTargetSpace:
        """NNI's target space."""
        return self._targets.space(key)

    def trained_bare(self, key: Key) -> bool:
        """Whether a target runs unmasked during training, because its consumers are masked instead."""
        source = self._targets.root(key)
        return source is not None and self._set_of[source].inside

    def mask(self, key: Key, keep: Tensor) -> Tensor:
        """NNI's mask of a target, zeros and ones that broadcast to it, when the units ``keep``, ``(U,)``, stay."""
        source = self._targets.root(key)
        assert source is not None
        unit_set = self._set_of[source]
        target = self._targets.tensor(key)
        if unit_set.inside:
            return self._channels.rows(key, keep, self._starts)
        group = unit_set.group
        assert isinstance(group, BlockGroup)
        offset = self._starts[unit_set.keys]
        kept = keep[offset : offset + group.num_units].to(target)
        for site in group.masked:
            if site.parameter is target:
                return expand_blocks(kept, site)
        align = self._targets.space(key).align
        assert align is not None
        # A dimension that is not cut has length 1 here, so that what aligns with it is masked as a whole: never, as long
        # as one unit stays.
        mask = self.mask((align["module_name"] or key[0], align["target_name"]), keep)
        reduced = [d for d in range(mask.dim()) if d not in align["dims"] and d - mask.dim() not in align["dims"]]
        mask = (mask.sum(reduced) if reduced else mask).bool().to(target)
        return mask.expand(target.shape).contiguous()

    def _check_alignments(self, num_units: int) -> None:
        """Before any training: the mask of what aligns has the shape of what it aligns with."""
        keep = torch.ones(num_units, dtype=torch.bool, device=self.groups[0].masked[0].parameter.device)
        for key in self.keys:
            align = self._targets.space(key).align
            if align is None or self._targets.root(key) == key or self.trained_bare(key):
                continue
            try:
                self.mask(key, keep)
            except RuntimeError as error:  # torch's, of sizes that differ
                module, name = source = (align["module_name"] or key[0], align["target_name"])
                shapes = [tuple(self._targets.tensor(k).shape) for k in (key, source)]
                transposed = isinstance(self._model.get_submodule(module), nn.modules.conv._ConvTransposeNd)
                note = ", a transposed convolution, whose dimension 0 are its inputs" if transposed else ""
                raise ConfigError(
                    f"{'.'.join(key)} of shape {shapes[0]} aligns with dimensions {align['dims']} of {'.'.join(source)} of "
                    f"shape {shapes[1]}{note}: give {key[0]} an entry with 'target_names': [{name!r}], which leaves its "
                    f"{key[1]} unmasked, or leave it out (exclude_op_names)"
                ) from error

    def _check_trainable(self) -> None:
        for unit_set in self.sets:
            if not any(site.parameter.requires_grad for site in unit_set.group.masked):
                raise ConfigError(
                    f"{listed(unit_set.keys)}: the weights that the mask multiplies are frozen "
                    f"({', '.join(site.name for site in unit_set.group.masked[:3])}), so that nothing would score their "
                    "units: train them, or leave these layers out (exclude_op_names)"
                )
