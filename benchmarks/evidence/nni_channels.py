"""NNI's own structured pruners as methods."""

from __future__ import annotations

import copy
from bisect import bisect_left

import torch

from .baselines.single_weights import SingleWeights
from .nni_masks import HostMasks
from .outcomes import Method, Outcome
from .package_runs import make_pruner, tuned
from .problems import Problem
from .tuning import Budget


def by_nni(make_masks: HostMasks) -> Method:
    """NNI's own structured pruner: its masks, made small by the package's ``speedup``; the remaining passes tune the
    smaller model.

    NNI has one ``sparse_ratio`` per layer: it is the same everywhere, :func:`nni_ratio`. Layers that share channels lose
    them together (``configure_structured``).
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        from fairprune_plugin.nni import configure_structured, speedup

        model = copy.deepcopy(problem.dense)
        ratio = nni_ratio(problem, budget)
        layers = SingleWeights(model, ratio, problem.arguments(model).get("ignored_layers", ())).names
        config = configure_structured(model, problem.example, [{"op_names": list(layers), "sparse_ratio": ratio}])
        masks, spent = make_masks(problem, model, config, budget)
        model = speedup(model, masks, problem.example)
        passes = budget.passes - spent
        return Outcome(tuned(problem, model, passes, budget.lr, None), budget.passes, {"sparse_ratio": round(ratio, 4)})

    return method


def nni_ratio(problem: Problem, budget: Budget) -> float:
    """The ``sparse_ratio`` of every layer with which NNI comes nearest to the parameter budget.

    NNI hides ``int(n · ratio)`` of the n channels of a layer: a ratio matters only where that number changes.
    """
    pruner = make_pruner(problem, copy.deepcopy(problem.dense), Budget(0.5, 2, budget.lr, "channels"), None)
    widths = [group.channels.num_units for group in pruner.host_groups]

    def gone(ratio: float) -> float:
        keep = torch.cat([torch.arange(width) >= int(width * ratio) for width in widths])
        return 1 - pruner.budget.size(keep, "params") / pruner.dense_params

    ratios = sorted({hidden / width + 1e-6 for width in widths for hidden in range(width)})
    above = bisect_left(ratios, budget.ratio, key=gone)
    return min(ratios[max(above - 1, 0) : above + 1], key=lambda ratio: abs(gone(ratio) - budget.ratio))
