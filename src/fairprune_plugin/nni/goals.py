"""The projection of the upper level under NNI's sparse goals: which units stay at the goals of the moment.

Read at every call from the target spaces, as NNI's own generator does: the pruner's schedule, or an AGP or linear
pruner around it, moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..masks.element_budget import Member, hide_below, hide_by_elements, hide_in_patterns, worst
from .unit_set import UnitSet
from .units import Units

EPSILON = 1e-6  # a goal like 0.7 · 10 units is 7.000000000000001 in floating point, or 6.999…


class SparseGoals:
    """Masks that meet the goals of all unit sets.

    Args:
        units: Of the pruner.
        offsets: Position of each set's first unit in the flat vector.
        cost_exponent: Under a shared budget, scores are divided by this power of a unit's weights.
    """

    def __init__(self, units: Units, offsets: Sequence[int], cost_exponent: float) -> None:
        self._units = units
        self._cost_exponent = cost_exponent
        self._slices = [slice(a, b) for a, b in pairwise(offsets)]
        self._global: dict[Any, list[int]] = {}
        for index, unit_set in enumerate(units.sets):
            group = self._value(unit_set, "global_group_id")
            if group is not None and self._value(unit_set, "dependency_group_id") is None:
                self._global.setdefault(group, []).append(index)
        for group, indices in self._global.items():
            ratios = {self._value(units.sets[index], "sparse_ratio") for index in indices}
            if len(ratios) > 1:
                raise ConfigError(f"layers of global_group_id {group!r} have different sparse ratios {sorted(ratios)}")

    def current(self) -> tuple[Any, ...]:
        """The goals as they are now, to notice a change."""
        keys = ("sparse_ratio", "sparse_threshold", "min_sparse_ratio", "max_sparse_ratio")
        return tuple(self._value(unit_set, key) for unit_set in self._units.sets for key in keys)

    def project(self, scores: Tensor) -> Tensor:
        """The best mask ``(U,)`` bool under the goals of the moment; ``scores`` ``(U,)``, higher stays."""
        keep = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        shared = {index for indices in self._global.values() for index in indices}
        for index, unit_set in enumerate(self._units.sets):
            if index not in shared:
                self._hide(keep, scores, unit_set, self._slices[index])
        for indices in self._global.values():
            members = [self._member(self._units.sets[index], self._slices[index]) for index in indices]
            ratio = self._value(self._units.sets[indices[0]], "sparse_ratio")
            total = sum(member.size * member.grain for member in members)
            hide_by_elements(keep, scores, members, int(total * ratio + EPSILON), cost_exponent=self._cost_exponent)
        return keep

    def _hide(self, keep: Tensor, scores: Tensor, unit_set: UnitSet, units: slice) -> None:
        member = self._member(unit_set, units)
        threshold = self._value(unit_set, "sparse_threshold")
        if threshold is not None:
            hide_below(keep, scores, member, threshold)
            return
        ratio = self._value(unit_set, "sparse_ratio")
        if unit_set.pattern is not None:
            _, m = unit_set.pattern
            shape = self._units.space(unit_set.keys[0]).shape
            hide_in_patterns(keep, scores, units, shape, m, int(ratio * m + EPSILON))
            return
        hidden = min(max(int(member.size * ratio + EPSILON), member.least_hidden), member.most_hidden)
        keep[units] &= ~worst(scores[units], hidden)

    def _member(self, unit_set: UnitSet, units: slice) -> Member:
        size = unit_set.group.num_units
        highest, lowest = self._value(unit_set, "max_sparse_ratio"), self._value(unit_set, "min_sparse_ratio")
        most = size - min(unit_set.least_units, size)
        if highest is not None:
            most = min(most, int(size * highest + EPSILON))
        least = 0 if lowest is None else min(int(size * lowest + EPSILON), most)
        return Member(units, unit_set.grain, most, least)

    def _value(self, unit_set: UnitSet, name: str) -> Any:
        """A setting of the set: that of its first target that has one."""
        values = (getattr(self._units.space(key), name) for key in unit_set.keys)
        return next((value for value in values if value is not None), None)
