"""The projection of the upper level: which units stay when a budget says how much may.

Two budgets. A *channel* budget keeps a share of the units of each ranking scope (one layer, all layers, or
the layers a user named together), exactly as Torch-Pruning counts them. A *size* budget (parameters, MACs)
is one for the whole model: units are ranked by score per (a power of) what they cost, so that the upper
level also decides how much each layer keeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError
from ..value_checks import reading_waits
from .cost import CostModel

FILL_CANDIDATES = 64  # hidden units that get a second chance; each costs one evaluation of the size


@dataclass(frozen=True)
class GroupLimits:
    """What a group may come down to.

    Attributes:
        units: Slice of the group in the flat vector of units.
        floor: Units that always stay, at least 1.
        multiple: Kept units are a multiple of this, as far as the floor and the group's size allow.
        parts: Units ``(k,)``, counted from the group's first, of layers that have some of them only (those under a
            concatenation): one unit of each stays. The floor is at least their number.
    """

    units: slice
    floor: int
    multiple: int = 1
    parts: tuple[Tensor, ...] = ()

    @property
    def size(self) -> int:
        return int(self.units.stop - self.units.start)

    def to(self, device: torch.device) -> GroupLimits:
        """The same for scores on a device."""
        return replace(self, parts=tuple(part.to(device) for part in self.parts))

    def rounded(self, kept: Tensor, *, up: bool) -> Tensor:
        """Number of kept units (0-d int64) after rounding to the multiple, within [floor, size]."""
        steps = (kept + (self.multiple - 1 if up else 0)) // self.multiple
        return (steps * self.multiple).clamp(self.floor, self.size)


@dataclass(frozen=True)
class RankingScope:
    """Groups whose units are ranked against each other, and the share of their units that goes.

    Attributes:
        groups: Indices of the groups.
        ratio: Pruning ratio of the scope, in [0, 1).
        initial_units: Units of the scope in the dense model, which the ratio refers to.
    """

    groups: tuple[int, ...]
    ratio: float
    initial_units: int


def floor_units(num_units: int, max_pruning_ratio: float, multiple: int, least: int = 1) -> int:
    """Units that must stay: at least ``least``, at least ``1 − max_pruning_ratio`` of them, a whole multiple."""
    floor = max(least, math.ceil(num_units * (1 - max_pruning_ratio) - 1e-9))
    return min(num_units, math.ceil(floor / multiple) * multiple)


def keep_by_channels(
    scores: Tensor, limits: Sequence[GroupLimits], scopes: Sequence[RankingScope], progress: float
) -> Tensor:
    """Keeps the best units of each scope, ``(U,)`` bool.

    Args:
        scores: ``(U,)``; higher stays.
        limits: Of every group.
        scopes: Groups outside every scope keep all their units.
        progress: Share of each scope's final ratio that is due now, in [0, 1].
    """
    keep = torch.ones_like(scores, dtype=torch.bool)
    for scope in scopes:
        members = [limits[index] for index in scope.groups]
        total = sum(member.size for member in members)
        # Rounded before truncating, as a share like 0.7 · 10 is 7.000000000000001 in floating point.
        kept_total = int(round(scope.initial_units * (1 - scope.ratio * progress), 9))
        hidden = total - max(kept_total, sum(member.floor for member in members))
        if hidden <= 0:
            continue
        candidates = torch.cat([_unprotected(scores, member) for member in members])
        worst = candidates[torch.argsort(scores[candidates], stable=True)[:hidden]]
        keep.index_fill_(0, worst, False)
        for member in members:
            _round(keep, scores, member, up=False)
    return keep


def keep_by_size(
    scores: Tensor,
    limits: Sequence[GroupLimits],
    cost: CostModel,
    size: float,
    *,
    start: Tensor,
    groups: Sequence[int],
) -> Tensor:
    """Hides the worst units of the given groups until the model is as small as asked, ``(U,)`` bool.

    Nothing here waits for a value of an accelerator; there the searches take as many rounds as the worst case needs.

    Args:
        scores: ``(U,)``, already divided by what the unit costs; higher stays.
        limits: Of every group.
        cost: Size of the model under a mask.
        size: Asked for, in the unit of the cost model; of the two masks around it the nearer one is taken.
        start: ``(U,)`` bool mask of what is hidden already for other reasons.
        groups: Indices of the groups that share the budget.
    """
    members = [limits[index] for index in groups]
    candidates = torch.cat([_unprotected(scores, member) for member in members])
    order = candidates[torch.argsort(scores[candidates], stable=True)]

    count = len(order)
    # How soon each unit goes; those that may not go come after everybody.
    turn = torch.full_like(scores, count, dtype=torch.long)
    turn[order] = torch.arange(count, device=scores.device)

    def mask(hidden: Tensor) -> Tensor:
        keep = start & (turn >= hidden)
        for member in members:
            _round(keep, scores, member, up=True)
        return keep

    # The size falls as more are hidden: the smallest count that reaches the budget.
    low, high = (torch.full((), value, dtype=torch.long, device=scores.device) for value in (0, count))
    for _ in range(count.bit_length()):
        middle = (low + high) // 2
        reached = cost.size(mask(middle)) <= size
        low, high = torch.where(reached, low, torch.minimum(middle + 1, high)), torch.where(reached, middle, high)
    best = mask(low)
    if all(member.multiple == 1 for member in members):  # with rounded widths nothing is shown again
        best = _fill(best, order, low, cost, size)
    before = mask((low - 1).clamp_min(0))
    nearer = (cost.size(before) - size).abs() < (cost.size(best) - size).abs()
    return torch.where(nearer, before, best)


def _fill(keep: Tensor, order: Tensor, hidden: Tensor, cost: CostModel, size: float) -> Tensor:
    """Shows units again that still fit: the last unit hidden may have been an expensive one.

    Args:
        keep: ``(U,)`` bool mask at or below the size.
        order: Units that may go, worst first.
        hidden: 0-d, how many of them are hidden; the best of those get their chance first.
        cost: Size of the model under a mask.
        size: Asked for.
    """
    now = cost.size(keep)
    for back in range(1, min(FILL_CANDIDATES, len(order)) + 1):
        room = (size - now > 0.002 * size) & (hidden >= back)
        if not reading_waits(keep.device) and not bool(room):
            break
        unit = order.index_select(0, (hidden - back).clamp_min(0).reshape(1))
        trial = keep.index_fill(0, unit, True)
        larger = cost.size(trial)
        fits = room & (larger <= size)
        keep, now = torch.where(fits, trial, keep), torch.where(fits, larger, now)
    return keep


def check_reachable(
    limits: Sequence[GroupLimits],
    cost: CostModel,
    size: float,
    asked: str,
    groups: Sequence[int],
    *,
    start: Tensor | None = None,
) -> None:
    """Refuses a size budget below what the floors leave.

    Args:
        limits: Of every group.
        cost: Size of the model under a mask.
        size: Asked for.
        asked: How the user said it, for the message.
        groups: Indices of the groups that share the budget.
        start: ``(U,)`` bool mask of what other budgets hide at the end (whole heads, layers with a ratio of their own).

    Raises:
        ConfigError: With the smallest size that can be reached.
    """
    keep = torch.ones(cost.num_units, dtype=torch.bool) if start is None else start.clone()
    for index in groups:
        keep[limits[index].units.start + limits[index].floor : limits[index].units.stop] = False
    smallest = float(cost.size(keep))
    if smallest > size * 1.02:
        raise ConfigError(
            f"{asked} asks for a size of {size:.0f}, but with every layer at its floor {smallest:.0f} of "
            f"{cost.dense:.0f} are left (a ratio of {1 - smallest / cost.dense:.3f}): ask for less, ignore fewer "
            "layers, or lower the floor (max_pruning_ratio, round_to)"
        )


def _order(scores: Tensor, limits: GroupLimits) -> Tensor:
    """Units of a group, counted from its first, in the order in which they may go; the best of each part goes last."""
    own = scores[limits.units]
    for part in limits.parts:
        own = own.index_fill(0, part[own[part].argmax()].reshape(1), torch.inf)
    return torch.argsort(own, stable=True)


def _unprotected(scores: Tensor, limits: GroupLimits) -> Tensor:
    """Units of a group that may go: all but the best ``floor`` ones."""
    candidates: Tensor = _order(scores, limits)[: limits.size - limits.floor] + limits.units.start
    return candidates


def _round(keep: Tensor, scores: Tensor, limits: GroupLimits, *, up: bool) -> None:
    if limits.multiple == 1:
        return
    kept = keep[limits.units].sum()
    wanted = limits.rounded(kept, up=up)
    # The order in which units go elsewhere, so that equal scores are resolved alike and masks stay nested.
    rank = torch.argsort(_order(scores, limits))
    keep[limits.units] = torch.where(wanted == kept, keep[limits.units], rank >= limits.size - wanted)
