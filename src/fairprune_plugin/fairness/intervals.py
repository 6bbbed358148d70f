"""How much of a rate, or of a gap, is chance: 95 % intervals in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .parity import OVERALL, PAIRWISE

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


def gap_half_width(hits: Tensor, totals: Tensor, deviation: Tensor, reference: str | int) -> Tensor:
    """Half width of the 95 % interval of each rate's gap, ``(R,)``; NaN where the gap is undefined.

    The gap is a difference of two independent proportions: of the extreme groups (``"pairwise"``), of the most
    distant group and a named one, or of that group and everybody else (``"overall"``, scaled by the share of
    everybody else). The standard error is Agresti and Caffo's (one success and one failure added to each side;
    The American Statistician, 2000), which holds for small groups and rates near 0 or 1.

    Args:
        hits: ``(R, G)`` counted decisions.
        totals: ``(R, G)`` counted samples.
        deviation: ``(R, G)`` each group's rate minus the reference.
        reference: As in :mod:`.parity`.
    """
    out = []
    for row_hits, row_totals, row_deviation in zip(hits.tolist(), totals.tolist(), deviation.tolist(), strict=True):
        known = [group for group, total in enumerate(row_totals) if total > 0]
        if len(known) < 2 or (isinstance(reference, int) and reference not in known):
            out.append(math.nan)
            continue
        variance = {group: _variance(row_hits[group], row_totals[group]) for group in known}
        # Among equally distant groups the least certain one counts: a tie says nothing about the small group.
        if reference == PAIRWISE:
            high = max(known, key=lambda group: (row_deviation[group], variance[group]))
            low = min((g for g in known if g != high), key=lambda group: (row_deviation[group], -variance[group]))
            squared = variance[high] + variance[low]
        elif reference == OVERALL:
            worst = max(known, key=lambda group: (abs(row_deviation[group]), variance[group]))
            rest = [group for group in known if group != worst]
            size = sum(row_totals[group] for group in rest)
            share = size / (row_totals[worst] + size)
            squared = share**2 * (variance[worst] + _variance(sum(row_hits[group] for group in rest), size))
        else:
            others = (group for group in known if group != reference)
            worst = max(others, key=lambda group: (abs(row_deviation[group]), variance[group]))
            squared = variance[worst] + variance[int(reference)]
        out.append(Z95 * math.sqrt(squared))
    return torch.tensor(out, dtype=torch.float64)


def _variance(hits: float, total: float) -> float:
    p = (hits + 1) / (total + 2)
    return p * (1 - p) / (total + 2)
