"""How much of a rate, or of a gap, is chance: 95 % intervals in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from .parity import BOTH, PAIRWISE, Sides, defined, deviations, distances

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal


def wilson(hits: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """Wilson's score interval of a proportion (Wilson, JASA 1927): lower and upper 95 % bounds.

    Args:
        hits: Successes, any shape.
        totals: Trials, same shape. Without a trial the interval is [0, 1]: nothing is known.
    """
    n = totals.clamp_min(1e-12)
    p = hits / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * torch.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    empty = totals <= 0
    return (
        torch.where(empty, torch.zeros_like(p), (centre - half).clamp_min(0)),
        torch.where(empty, torch.ones_like(p), (centre + half).clamp_max(1)),
    )


def gap_half_width(
    rates: Tensor, variances: Tensor, weights: Tensor, reference: str | int, sides: Sides = BOTH
) -> Tensor:
    """Half width of the 95 % interval of each rate's gap, ``(R,)`` float64; NaN where the gap is undefined.

    Groups are independent samples. The gap is a difference of the two extreme groups (``"pairwise"``), or of the most
    distant group w and the reference c · rate, whose variance is (1 − c_w)² v_w + Σ c_h² v_h over the other groups.
    The choice of the extreme groups is taken as given; the interval of a maximum over many groups is a little wider
    (see the bootstrap in :mod:`..audit`). Among equally distant groups the least certain one counts: a tie says nothing
    about the small group.

    Args:
        rates: ``(R, G)`` as compared: NaN where unknown.
        variances: ``(R, G)`` squared standard errors, see :meth:`~.counts.RateCounts.variances`.
        weights: ``(R, G)`` of the reference.
        reference: As in :mod:`.parity`.
        sides: As in :mod:`.parity`.
    """
    ok = defined(rates, weights, reference)
    variance = torch.where(ok, variances, 0.0).double()
    deviation = deviations(rates, weights)
    if reference == PAIRWISE:
        high = _extreme(deviation, variance, ok)
        low = _extreme(-deviation, variance, ok & ~high)
        share = (high | low).to(variance.dtype)
    else:
        candidates = ok.clone()
        if isinstance(reference, int):
            candidates[:, reference] = False  # it is never its own distance
        worst = _extreme(distances(deviation, sides), variance, candidates)
        share = torch.where(worst, 1 - weights, weights * ok)
    # An unknown variance matters only where it has a share.
    squared = torch.where(share != 0, share.square() * variance, 0.0).sum(dim=1)
    return torch.where(ok.any(dim=1), Z95 * squared.sqrt(), torch.nan)


def _extreme(distance: Tensor, variance: Tensor, candidates: Tensor) -> Tensor:
    """The most distant candidate of each row, the least certain one among equals: ``(R, G)`` bool."""
    distance = distance.masked_fill(~candidates, float("-inf"))
    tied = candidates & (distance == distance.amax(dim=1, keepdim=True))
    index = torch.where(tied, variance, -1.0).argmax(dim=1, keepdim=True)
    return torch.zeros_like(candidates).scatter(1, index, True) & candidates
