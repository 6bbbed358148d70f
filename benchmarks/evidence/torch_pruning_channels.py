"""Torch-Pruning's own pruner as methods: what its users have before they swap the line.

The scores of :mod:`.baselines` are Torch-Pruning's too, but under this package's budget of parameters over all layers.
Here the ranking is the host's as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

from fairprune_plugin.torch_pruning.size.macs import count

from .nni_masks import CALIBRATION
from .outcomes import Method, Outcome
from .package_runs import tuned
from .problems import Problem
from .tuning import Budget, batches

HALVINGS = 10  # of the interval that the host's ratio of channels lies in: finer than one channel of a thousand


def by_torch_pruning(
    make_importance: Callable[[], Any], *, gradients: bool = False, isomorphic: bool = False
) -> Method:
    """One global ranking of the channels, which go at once; the remaining passes tune the smaller model.

    The host's ratio is one of channels: it is the one that comes nearest to the budget of parameters or MACs.

    Args:
        make_importance: A fresh importance of the host.
        gradients: Whether it reads ``.grad``, which then is that of the loss over calibration batches, each a pass.
        isomorphic: One ranking for each kind of layer group (Fang et al., *Isomorphic Pruning*, ECCV 2024).
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        wanted = (1 - budget.ratio) * _size(problem.dense, problem, budget)
        low, high = 0.0, 1.0
        best: tuple[float, nn.Module, float] | None = None
        slopes = _slopes(problem) if gradients else {}
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            model = _pruned(problem, slopes, ratio, make_importance(), isomorphic)
            size = _size(model, problem, budget)
            if best is None or abs(size - wanted) < best[0]:
                best = abs(size - wanted), model, ratio
            low, high = (ratio, high) if size > wanted else (low, ratio)
        assert best is not None
        model = tuned(problem, best[1], budget.passes - (CALIBRATION if gradients else 0), budget.lr, None)
        return Outcome(model, budget.passes, {"pruning_ratio": round(best[2], 4)})

    return method


def _pruned(problem: Problem, slopes: dict[str, Any], ratio: float, importance: Any, isomorphic: bool) -> nn.Module:
    model = copy.deepcopy(problem.dense)
    for name, parameter in model.named_parameters():
        parameter.grad = slopes.get(name)
    arguments = problem.arguments(model)
    # The host adds grouped layers to its default arguments, which all its pruners share: each gets its own.
    arguments = {"in_channel_groups": {}, "out_channel_groups": {}, **arguments}
    tp.pruner.BasePruner(
        model,
        problem.example,
        importance=importance,
        global_pruning=True,
        isomorphic=isomorphic,
        pruning_ratio=ratio,
        **arguments,
    ).step()
    model.zero_grad()
    return model


def _slopes(problem: Problem) -> dict[str, Any]:
    """Gradients of the mean loss over calibration batches, by name of the parameter, in eval mode as all scores see them."""
    model = copy.deepcopy(problem.dense).eval()
    for inputs, targets, _ in batches(problem, CALIBRATION, order=problem.seed):
        (F.cross_entropy(model(inputs), targets) / CALIBRATION).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _size(model: nn.Module, problem: Problem, budget: Budget) -> float:
    macs, params = count(model, problem.example)
    return macs if budget.target == "macs" else params
