"""A small network, its pruner under a constraint, and a batch for it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from driving import SmallMLP, batches_for, small_pruner
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner


def constrained(model: nn.Module | None = None, **options: Any) -> tuple[SmallMLP, BiFPPruner]:
    """For 8 training steps."""
    model = model or SmallMLP()
    constraint = EqualOpportunity(tolerance=0.02, groups=["women", "men"])
    return model, small_pruner(model, **{"constraint": constraint, "total_steps": 8, **options})


def batch(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    return batches_for(model, 1)[0]
