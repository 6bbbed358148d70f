"""Tuning on another paper's objective, for losses that ``fit`` does not know; the rest is as ``fit`` has it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .moments import Moments
from .problems import Problem
from .tuning import MOMENTS, batches, make_optimizer

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def tune(
    problem: Problem,
    model: nn.Module,
    objective: Objective,
    *,
    steps: int,
    lr: float,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Trains in place on ``objective(logits, y, s)`` and ends with the best moment, by the rule of every other method.

    Args:
        problem: Data, and the constraint that judges.
        model: Trained in place.
        objective: Scalar loss of a batch.
        steps: Forward-backward passes.
        lr: Peak learning rate.
        after_step: Called after every optimizer step.
    """
    optimizer, schedule = make_optimizer(problem, model, steps, lr)
    every = max(1, steps // MOMENTS)
    moments = Moments(problem)
    whole = torch.ones(0, dtype=torch.bool)  # no mask is learned here
    model.train()
    for number, (x, y, s) in enumerate(batches(problem, steps, order=problem.seed), start=1):
        optimizer.zero_grad()
        objective(model(x), y, s).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if after_step is not None:
            after_step()
        if number % every == 0 or number == steps:
            moments.offer(model, whole, number)
    moments.restore(model)
    moments.recalibrate(model)
