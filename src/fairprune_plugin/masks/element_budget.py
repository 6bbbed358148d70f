"""The projection when a budget counts weights: NNI's rules, over blocks of any size.

A scope is one set of units (a target, or targets that depend on each other) or several that share one budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Member:
    """Units that are ranked, and what they may come down to.

    Attributes:
        units: Slice in the flat vector of units.
        grain: Weights that one unit stands for.
        most_hidden: Units that may go; the best of the others always stay.
        least_hidden: Units that go whatever the others are worth.
    """

    units: slice
    grain: int
    most_hidden: int
    least_hidden: int = 0

    @property
    def size(self) -> int:
        return int(self.units.stop - self.units.start)


def hide_by_elements(
    keep: Tensor, scores: Tensor, members: Sequence[Member], elements: int, *, cost_exponent: float = 0.0
) -> None:
    """Hides the worst units of all members, as many as fit into a number of weights; changes ``keep`` in place.

    Args:
        keep: ``(U,)`` bool.
        scores: ``(U,)``; higher stays.
        members: Ranked together.
        elements: Weights that go.
        cost_exponent: With members of different grain, scores are divided by this power of it.
    """
    ranked, costs = [], []
    for member in members:
        values = scores[member.units]
        least = min(member.least_hidden, member.most_hidden)
        forced = worst(values, least)
        keep[member.units] &= ~forced
        elements -= least * member.grain
        free = (worst(values, member.most_hidden) & ~forced).nonzero().reshape(-1) + member.units.start
        ranked.append(free)
        costs.append(torch.full((len(free),), member.grain, device=scores.device))
    candidates, cost = torch.cat(ranked), torch.cat(costs)
    grains = {member.grain for member in members}
    if len(grains) == 1:  # a number of units: no need to sort millions of weights
        count = min(max(elements, 0) // grains.pop(), len(candidates))
        keep[candidates[worst(scores[candidates], count)]] = False
        return
    order = torch.argsort(scores[candidates] / cost**cost_exponent, stable=True)
    candidates, cost = candidates[order], cost[order]
    keep[candidates[cost.cumsum(0) <= elements]] = False


def worst(values: Tensor, count: int) -> Tensor:
    """The ``count`` smallest values, ``(n,)`` bool; of equal ones the first."""
    if count <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    limit = values.kthvalue(count).values
    out = values < limit
    equal = (values == limit).nonzero().reshape(-1)
    out[equal[: count - int(out.sum())]] = True
    return out


def hide_below(keep: Tensor, scores: Tensor, member: Member, threshold: float) -> None:
    """Hides units whose score is below ``threshold`` times the mean score of the member, within its bounds."""
    values = scores[member.units]
    below = int((values < threshold * values.mean()).sum())
    hidden = min(max(below, member.least_hidden), member.most_hidden)
    keep[member.units] &= ~worst(values, hidden)


def hide_in_patterns(keep: Tensor, scores: Tensor, units: slice, shape: Sequence[int], m: int, hidden: int) -> None:
    """N:M sparsity: of every ``m`` consecutive weights along the inputs, the ``hidden`` worst go.

    Args:
        keep: ``(U,)`` bool, changed in place.
        scores: ``(U,)``; higher stays.
        units: Slice of a parameter's weights, one unit per weight.
        shape: Of the parameter; ``m`` divides its second dimension.
        m: Length of a pattern.
        hidden: Weights of each pattern that go, in ``[0, m)``.
    """
    values = scores[units].reshape(*shape).movedim(1, -1)
    patterns = values.reshape(-1, m)
    worst = torch.argsort(patterns, dim=1, stable=True)[:, :hidden]
    shown = torch.ones_like(patterns, dtype=torch.bool).scatter_(1, worst, False)
    keep[units] = shown.reshape(values.shape).movedim(-1, 1).reshape(-1)
