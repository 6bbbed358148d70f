"""What training has in common for every method: passes, learning rate, optimizer, schedule and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from .problems import Problem

MOMENTS = 10  # validation passes of a run, for every method


@dataclass(frozen=True)
class Budget:
    """What every method gets alike.

    Attributes:
        ratio: Share of the target that goes.
        passes: Forward-backward passes after the dense training, calibration included.
        lr: Peak learning rate of the cosine schedule.
        target: ``"params"`` or ``"macs"``: one budget over all layers; ``"channels"``: the same share of the channels
            everywhere; ``"weights"``: single weights, and the ratio is that of the prunable ones.
    """

    ratio: float
    passes: int
    lr: float
    target: str = "params"


def make_optimizer(problem: Problem, model: nn.Module, steps: int, lr: float) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer and one cosine over the steps."""
    kind, options = optimizer_settings(problem, lr)
    optimizer = kind(model.parameters(), **options)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def optimizer_settings(problem: Problem, lr: float) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
    """Class and arguments: SGD with momentum, or AdamW for a transformer."""
    if problem.setting.network == "vit":
        return torch.optim.AdamW, {"lr": lr, "weight_decay": problem.weight_decay}
    return torch.optim.SGD, {"lr": lr, "momentum": 0.9, "weight_decay": problem.weight_decay}


def batches(problem: Problem, count: int, *, order: int) -> Iterator[Any]:
    """``count`` training batches, epoch after epoch."""

    def endless() -> Iterator[Any]:
        loader = problem.training(order)
        while True:
            yield from loader

    return islice(endless(), count)
