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

    Groups are independent samples. The choice of the extreme groups (:func:`gap_contrast`) is taken as given; the interval
    of a maximum over many groups is a little wider (see the bootstrap in :mod:`..audit`). Arguments as there.
    """
    contrast = gap_contrast(rates, variances, weights, reference, sides)
    # An unknown variance matters only where it has a share.
    squared = torch.where(contrast != 0, contrast.square() * variances.double(), 0.0).sum(dim=1)
    return torch.where(defined(rates, weights, reference).any(dim=1), Z95 * squared.sqrt(), torch.nan)


def gap_contrast(
    rates: Tensor, variances: Tensor, weights: Tensor, reference: str | int, sides: Sides = BOTH
) -> Tensor:
    """Coefficients of the groups' rates in each gap, ``(R, G)`` float64; 0 everywhere where it is undefined.

    The gap is a difference of the two extreme groups (``"pairwise"``), or of the most distant group w and the reference
    c · rate: 1 − c_w and −c_h. Among equally distant groups the least certain one counts: a tie says nothing about the
    small group.

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
        return high.to(variance.dtype) - low.to(variance.dtype)
    candidates = ok.clone()
    if isinstance(reference, int):
        candidates[:, reference] = False  # it is never its own distance
    worst = _extreme(distances(deviation, sides), variance, candidates)
    below = torch.where(worst, deviation < 0, False).any(dim=1, keepdim=True)
    sign = torch.where(below, -1.0, 1.0) if len(sides) == 2 else torch.full_like(weights[:, :1], sides[0])
    return (sign * torch.where(worst, 1 - weights, -(weights * ok))).double()


def centre_shift(
    coefficients: Tensor, rates: Tensor, totals: Tensor, variances: Tensor, middle: Tensor | float = 0.5
) -> Tensor:
    """How far the centre of an interval lies from the estimate: by what pseudo-observations change it, ``(…)`` float64.

    A small group without a failure has an estimate at the end of what is possible, with the truth on one side of it. One
    success and one failure, as in its standard error (Agresti and Caffo, 2000), put the centre where it belongs. Of more
    than two rates each gets fewer, or their shifts would add up where their errors cancel: Price and Bonett
    (Computational Statistics & Data Analysis, 2004) share out two of each kind among the rates; here by their part of the
    variance, and never more than one of each.

    Args:
        coefficients: ``(…, M, G)`` of the rates in the estimate.
        rates: ``(…, M, G)``, as counted.
        totals: ``(…, M, G)`` samples behind them.
        variances: ``(…, M, G)`` squared standard errors.
        middle: ``(…, M, 1)`` what the pseudo-observations say: 1/2 of a proportion, 0 of a change of one; NaN of rates that
            have no bounds, whose centre is the estimate.
    """
    used = (coefficients != 0) & (totals > 0) & ~torch.isnan(torch.as_tensor(middle, device=rates.device))
    parts = torch.where(used, coefficients.square() * variances, 0.0).double()
    whole = parts.sum(dim=(-2, -1), keepdim=True)
    few = used.sum(dim=(-2, -1), keepdim=True) <= 2
    added = torch.where(few, 1.0, torch.where(whole > 0, 2 * parts / whole, 0.0).clamp_max(1))
    pull = 2 * added * (middle - rates) / (totals + 2 * added)
    return torch.where(used, coefficients * pull, 0.0).sum(dim=(-2, -1))


def ends(gaps: Tensor, centres: Tensor, halves: Tensor, *, two_sided: bool) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of the gaps' intervals: ``centres ± halves`` and ``gaps ± halves`` together.

    Around the centre alone the largest of many differences would look more certain than it is: pseudo-observations draw a
    low rate of a small group away from the high rate of everybody.

    Args:
        gaps: Estimates; of two-sided demands absolute ones.
        centres: With the gap's sign: below 0 if pseudo-observations turn the difference round.
        halves: Half widths.
        two_sided: Whether the intervals are of absolute differences.
    """
    centres = centres.abs() if two_sided else centres
    low, high = torch.minimum(centres, gaps) - halves, torch.maximum(centres, gaps) + halves
    return low.clamp_min(0) if two_sided else low, high


def _extreme(distance: Tensor, variance: Tensor, candidates: Tensor) -> Tensor:
    """The most distant candidate of each row, the least certain one among equals: ``(R, G)`` bool."""
    distance = distance.masked_fill(~candidates, float("-inf"))
    tied = candidates & (distance == distance.amax(dim=1, keepdim=True))
    index = torch.where(tied, variance, -1.0).argmax(dim=1, keepdim=True)
    return torch.zeros_like(candidates).scatter(1, index, True) & candidates
