"""The algebra of parity: how far each group's rate is from a reference, and by how much that is too far.

A reference is a weighting ``c`` of the groups, so that a deviation ``F = rate − c · rate`` is linear in the
rates: the same weights serve the strict rates and the surrogate ones, and the cost is linear in the number
of groups. One two-sided demand |F_g| ≤ τ becomes two one-sided constraints, +F_g − τ ≤ 0 and −F_g − τ ≤ 0; a
one-sided demand is only one of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

OVERALL = "overall"
PAIRWISE = "pairwise"
ITSELF = "itself"
Sides = tuple[int, ...]
BOTH: Sides = (1, -1)
BELOW: Sides = (-1,)


def reference_weights(rates: Tensor, totals: Tensor, reference: str | int) -> Tensor:
    """Weights ``c`` of the groups in the reference rate, ``(R, G)``; rows sum to 1 where a group is known.

    Args:
        rates: ``(R, G)`` strict rates; NaN where a group was never counted.
        totals: ``(R, G)`` how many samples each rate was counted on.
        reference: ``"overall"``: the rate of everybody (each group weighs its count). ``"pairwise"``: the
            middle between the highest and the lowest group, which makes |F_g| ≤ τ/2 for all g the same
            demand as max − min ≤ τ. ``"itself"``: nobody's; the rate (a change against the dense model) is the
            deviation. An integer: that group's rate.
    """
    known = ~torch.isnan(rates)
    if reference == ITSELF:
        return torch.zeros_like(rates)
    if isinstance(reference, int):
        weights = torch.zeros_like(rates)
        weights[:, reference] = known[:, reference].to(rates.dtype)
        return weights
    if reference == OVERALL:
        counted = totals * known
        return counted / counted.sum(dim=1, keepdim=True).clamp_min(1e-12)
    high = rates.masked_fill(~known, float("-inf")).argmax(dim=1, keepdim=True)
    low = rates.masked_fill(~known, float("inf")).argmin(dim=1, keepdim=True)
    half = torch.full_like(rates[:, :1], 0.5)
    weights = torch.zeros_like(rates).scatter_add(1, high, half).scatter_add(1, low, half)
    return weights * known


def defined(rates: Tensor, weights: Tensor, reference: str | int) -> Tensor:
    """Which deviations mean something, ``(R, G)`` bool: the group's rate is known, and what it is compared with."""
    known = ~torch.isnan(rates)
    if reference == ITSELF:
        return known
    comparable = (known.sum(dim=1, keepdim=True) >= 2) & (weights.sum(dim=1, keepdim=True) > 0)
    return known & comparable


def deviations(rates: Tensor, weights: Tensor) -> Tensor:
    """F: each group's rate minus the reference, ``(R, G)``; NaN where the rate is unknown."""
    reference = (weights * rates.nan_to_num(0.0)).sum(dim=1, keepdim=True)
    return rates - reference


def violations(deviation: Tensor, tolerance: float | Tensor, reference: str | int, sides: Sides = BOTH) -> Tensor:
    """The one-sided constraints of every deviation, ``(S, R, G)``, one row a side; positive means violated."""
    allowed = tolerance / 2 if reference == PAIRWISE else tolerance
    return _by_side(deviation, sides) - allowed


def distances(deviation: Tensor, sides: Sides) -> Tensor:
    """How far each group is on the side that counts, ``(R, G)``: |F| for both, −F for "below"."""
    return _by_side(deviation, sides).amax(dim=0)


def _by_side(deviation: Tensor, sides: Sides) -> Tensor:
    """The deviation as each side counts it, ``(S, R, G)``."""
    return torch.stack([deviation if side > 0 else -deviation for side in sides])


def gap(rates: Tensor, weights: Tensor, reference: str | int, sides: Sides = BOTH) -> Tensor:
    """The number a tolerance bounds, ``(R,)``: max − min for ``"pairwise"``, else the largest distance.

    NaN where fewer than two groups, or not the reference group, are known: such a gap is undefined, not zero.
    """
    ok = defined(rates, weights, reference)
    distance = distances(deviations(rates, weights), sides).masked_fill(~ok, float("-inf"))
    largest = distance.amax(dim=1)
    value = 2 * largest if reference == PAIRWISE else largest
    return torch.where(ok.any(dim=1), value, torch.full_like(value, float("nan")))
