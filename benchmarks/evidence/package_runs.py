"""The package at work on a problem: a pruner for a budget, its ``fit``, and ``fit`` without a mask to learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fairprune_plugin import Constraint
from fairprune_plugin.engine.results.snapshots import AUTO, FEW_GROUPS, SETTLED
from fairprune_plugin.torch_pruning import BiFPPruner

from .problems import Problem
from .tuning import MOMENTS, Budget, make_optimizer


def make_pruner(
    problem: Problem, model: nn.Module, budget: Budget, constraint: Constraint | None, **options: Any
) -> BiFPPruner:
    arguments = problem.arguments(model)
    if budget.ratio == 0 and "head_pruning_ratio" in arguments:
        arguments["head_pruning_ratio"] = 0.0  # the heads are gone already
    return BiFPPruner(
        model,
        problem.example,
        pruning_ratio=budget.ratio,
        target=budget.target,
        constraint=constraint,
        total_steps=budget.passes,
        **arguments,
        **options,
    )


def tuned(
    problem: Problem,
    model: nn.Module,
    passes: int,
    lr: float,
    constraint: Constraint | None,
    after_step: Callable[[], None] | None = None,
) -> nn.Module:
    """``fit`` without a mask to learn: the multipliers, drivers and choice of a moment are the package's own.

    ``after_step`` is called after every optimizer step, as that of :func:`.objective_tuning.tune`.
    """
    pruner = make_pruner(problem, model, Budget(0.0, passes, lr), constraint)
    return fit(problem, pruner, model, passes, lr, after_step=after_step).model


def fit(
    problem: Problem,
    pruner: BiFPPruner,
    model: nn.Module,
    passes: int,
    lr: float,
    driver: str | None = None,
    after_step: Callable[[], None] | None = None,
) -> Any:
    optimizer, schedule = make_optimizer(problem, model, passes, lr)
    if after_step is not None:
        optimizer.register_step_post_hook(lambda *_: after_step())
    return pruner.fit(
        problem.training(problem.seed),
        optimizer,
        validation=problem.splits["validation"],
        validate_every=max(1, passes // MOMENTS),
        lr_scheduler=schedule,
        driver=driver,
        # As the package has it under the constraint, and the same for what is tuned without one.
        select_by=SETTLED if len(problem.groups) > FEW_GROUPS else AUTO,
        progress=False,
    )
