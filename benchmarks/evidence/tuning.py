"""Training that is the same for every method: optimizer, schedule, batches, and the choice of a moment on validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fairprune_plugin.engine.evaluate import evaluate
from fairprune_plugin.engine.snapshots import rank
from fairprune_plugin.fairness.lagrangian import Lagrangian

from .problems import Problem

MOMENTS = 10  # validation passes of a run, for every method
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Budget:
    """What every method gets alike.

    Attributes:
        ratio: Share of the parameters that goes.
        passes: Forward-backward passes after the dense training, calibration included.
        lr: Peak learning rate of the cosine schedule.
        target: ``"params"``: one budget over all layers; ``"channels"``: the same share of the channels everywhere;
            ``"weights"``: single weights, and the ratio is that of the prunable ones.
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


def tune(
    problem: Problem,
    model: nn.Module,
    objective: Objective,
    *,
    steps: int,
    lr: float,
    after_step: Callable[[], None] | None = None,
    choose: bool = True,
) -> None:
    """Trains in place on ``objective(logits, y, s)`` and ends with the best moment on validation.

    The moment is chosen as ``fit`` chooses it from validation alone: within the tolerance first, then the accuracy.

    Args:
        problem: Data and constraint.
        model: Trained in place.
        objective: Scalar loss of a batch.
        steps: Forward-backward passes.
        lr: Peak learning rate.
        after_step: Called after every optimizer step.
        choose: Whether the best moment is brought back; otherwise the last one stays.
    """
    optimizer, schedule = make_optimizer(problem, model, steps, lr)
    lagrangian = Lagrangian(problem.constraint)
    evaluate(problem.dense, problem.splits["validation"], lagrangian, split="validation", dense=True)
    every = max(1, steps // MOMENTS)
    best: tuple[tuple[float, ...], dict[str, Tensor]] | None = None
    model.train()
    for number, (x, y, s) in enumerate(batches(problem, steps, order=problem.seed), start=1):
        optimizer.zero_grad()
        objective(model(x), y, s).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if after_step is not None:
            after_step()
        if choose and (number % every == 0 or number == steps):
            here = rank(evaluate(model, problem.splits["validation"], lagrangian, split="validation"))
            if best is None or here >= best[0]:
                best = (here, copy.deepcopy(model.state_dict()))
    if best is not None:
        model.load_state_dict(best[1])
