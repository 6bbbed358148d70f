"""Predictions, models and audits that the tests of the audit share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fairprune_plugin.audit import FairnessAudit, audit_predictions
from fairprune_plugin.fairness.constraints import AccuracyParity, EqualOpportunity

LONG = tuple(
    f"{sex} × {race}"
    for sex in ("female", "male")
    for race in (
        "White or European American",
        "Black or African American",
        "Latino_Hispanic (any | race)",
        "<script>alert('x')</script>",
        "averyveryverylongnamewithoutanyspacesthatcannotwrapunlessforcedtodoso",
        "Indian subcontinent & islands",
        "Middle Eastern and North African, including diaspora",
    )
)


def binary(n: int, groups: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits ``(N,)``, targets, group ids, and logits of a reference that is a little better for the last group."""
    generator = torch.Generator().manual_seed(seed)
    s = torch.randint(0, groups, (n,), generator=generator)
    y = torch.randint(0, 2, (n,), generator=generator)
    signal = (2 * y - 1).double()
    logits = 1.2 * torch.randn(n, generator=generator, dtype=torch.float64) + signal * (1 + 0.3 * s)
    reference = (
        logits + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64) + 0.4 * signal * (s == groups - 1)
    )
    return logits, y, s, reference


def multi_class(n: int, classes: int = 3, groups: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(N, C)``, targets and group ids."""
    generator = torch.Generator().manual_seed(seed)
    s = torch.randint(0, groups, (n,), generator=generator)
    y = torch.randint(0, classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), y] += 1 + 0.4 * s
    return logits, y, s


def result(name_of_constraint: str = "equal_opportunity", gap: float = 0.03, accuracy: float = 0.88) -> dict[str, Any]:
    """What ``FitResult.to_dict`` gives, as far as an audit reads it."""
    rows = [
        {
            "step": 10 * k,
            "progress": min(1.0, k / 6),
            "gaps": [None if k == 0 else gap + 0.2 * math.exp(-k)],
            "multipliers": [[0.1 * k, 0.0]],
            "accuracy": accuracy,
        }
        for k in range(9)
    ]
    verdict = {"constraint": name_of_constraint, "tolerance": 0.02}
    return {
        "history": rows,
        "before": {"accuracy": 0.9, "constraints": [{**verdict, "gap": 0.2}]},
        "after": {"split": "validation", "accuracy": accuracy, "constraints": [{**verdict, "gap": gap}]},
        "dense": {"params": 1000},
        "pruned": {"params": 300},
    }


def small_audit(**options: Any) -> FairnessAudit:
    """Two groups, two constraints, a reference model."""
    logits, y, s, reference = binary(600)
    groups = ("female", "male")
    constraints = [EqualOpportunity(0.1, groups=groups), AccuracyParity(0.05, groups=groups)]
    return audit_predictions(logits, y, s, constraints, reference, bootstrap=100, **options)


def large_audit(**options: Any) -> FairnessAudit:
    """Fourteen groups with long and with hostile names."""
    logits, y, s, reference = binary(2000, groups=14)
    return audit_predictions(logits, y, s, EqualOpportunity(0.1, groups=LONG), reference, bootstrap=100, **options)


class First(nn.Module):
    """Returns its input's first columns as logits; has no parameters."""

    def __init__(self, columns: int = 1) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.columns]
