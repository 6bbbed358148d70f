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
    """Half width of the 95 % interval of each rate's gap, ``(R,)``; NaN where fewer than two groups are known.

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
    known = totals > 0
    out = []
    for rate in range(len(hits)):
        groups = known[rate].nonzero().reshape(-1)
        if len(groups) < 2:
            out.append(math.nan)
            continue
        worst = int(groups[deviation[rate][groups].abs().argmax()])
        first = (float(hits[rate, worst]), float(totals[rate, worst]))
        scale = 1.0
        if reference == PAIRWISE:
            high = int(groups[deviation[rate][groups].argmax()])
            low = int(groups[deviation[rate][groups].argmin()])
            first = (float(hits[rate, high]), float(totals[rate, high]))
            second = (float(hits[rate, low]), float(totals[rate, low]))
        elif reference == OVERALL:
            rest = [int(g) for g in groups if int(g) != worst]
            second = (float(hits[rate, rest].sum()), float(totals[rate, rest].sum()))
            scale = second[1] / (first[1] + second[1])
        else:
            second = (float(hits[rate, reference]), float(totals[rate, reference]))
        out.append(scale * Z95 * math.sqrt(_variance(*first) + _variance(*second)))
    return torch.tensor(out, dtype=torch.float64)


def _variance(hits: float, total: float) -> float:
    p = (hits + 1) / (total + 2)
    return p * (1 - p) / (total + 2)
