"""Channels that go at once, by a score of the dense model."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fairprune_plugin.torch_pruning import BiFPPruner

from .baselines import SCORES, ScoringContext, best_mask, remove_units
from .nni_masks import CALIBRATION
from .package_runs import make_pruner
from .problems import Problem
from .tuning import Budget, batches


def cut(problem: Problem, budget: Budget, score: str, *, source: nn.Module | None = None) -> tuple[nn.Module, int]:
    """A copy of the dense (or another) model without its lowest units, and the passes that scoring took."""
    uniform = score.endswith(" uniform")
    model = copy.deepcopy(source or problem.dense)
    pruner = make_pruner(problem, model, uniform_budget(problem, budget) if uniform else budget, None)
    context = scoring_context(problem, pruner, CALIBRATION)
    scores = SCORES[score.removesuffix(" uniform")](context)
    remove_units(pruner, best_mask(pruner, scores))
    return model, round(context.passes)


def uniform_budget(problem: Problem, budget: Budget) -> Budget:
    """The same share of the channels in every layer, such that the size is that of the budget."""
    low, high = 0.0, 1.0
    size = budget.ratio
    for _ in range(12):
        middle = (low + high) / 2
        pruner = make_pruner(problem, copy.deepcopy(problem.dense), Budget(middle, 2, budget.lr, "channels"), None)
        keep = pruner.budget.project(pruner.engine.scores.value(), 1.0)
        gone = 1 - pruner.budget.size(keep, budget.target) / pruner.budget.size(torch.ones_like(keep), budget.target)
        low, high = (middle, high) if gone < size else (low, middle)
    return Budget(low, budget.passes, budget.lr, "channels")


def scoring_context(problem: Problem, pruner: BiFPPruner, count: int) -> ScoringContext:
    """What scores look at: ``count`` training batches (at least one), each a pass."""
    return ScoringContext.of_pruner(
        pruner,
        batches(problem, max(count, 1), order=problem.seed),
        groups=problem.groups,
        max_batches=max(count, 1),
        seed=problem.seed,
    )
