"""Every method of the comparison, by name: from a dense model and a budget to a smaller model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch_pruning as tp
from torch import Tensor

from fairprune_plugin.torch_pruning import BiFPPruner

from .baselines.equalised_loss import EqualisedLoss
from .baselines.excess_gap import ExcessGapObjective
from .cuts import cut
from .nni_channels import by_nni
from .nni_masks import fpgm, gradual, taylor
from .objective_tuning import tune
from .outcomes import Method, Outcome
from .package_runs import fit, make_pruner, tuned
from .problems import Problem, Setting
from .tickets import ticket
from .torch_pruning_channels import by_torch_pruning
from .tuning import Budget

STARTS = {"random": tp.importance.RandomImportance, "lamp": tp.importance.LAMPImportance}
DUAL_RATE = 0.5  # of CEAG's and the equalised loss's own multipliers, per step; docs/results.md says how it was chosen


def dense(problem: Problem, budget: Budget) -> Outcome:
    """The dense model as it is."""
    return Outcome(problem.dense, 0)


def bifp(*, importance: str | None = None, driver: str | None = None, levels: str = "both", **bilevel: Any) -> Method:
    """The package's method.

    Args:
        importance: Where the scores start, a name in :data:`STARTS`; default: the group magnitude.
        driver: Which data move the multipliers; default: validation.
        levels: Where the constraint counts: ``"both"``, ``"weights"``, ``"mask"`` or ``"none"``.
        **bilevel: Settings of :class:`fairprune_plugin.engine.config.BiLevelConfig`.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        model = copy.deepcopy(problem.dense)
        options: dict[str, Any] = {"bilevel": bilevel or None}
        if importance is not None:
            options["importance"] = STARTS[importance]()
        pruner = make_pruner(problem, model, budget, problem.constraint, **options)
        if levels != "both":
            restrict(pruner, mask=levels == "mask", weights=levels == "weights")
        result = fit(problem, pruner, model, budget.passes, budget.lr, driver=driver)
        return Outcome(result.model, budget.passes, {"feasible": result.feasible})

    return method


def restrict(pruner: BiFPPruner, *, mask: bool, weights: bool) -> None:
    """Takes the constraint out of the loss of one level (or both); rates are counted and multipliers move as before."""
    complete, engine = pruner.lagrangian.loss, pruner.engine

    def loss(logits: Tensor, targets: Tensor, sensitive: Any = None, **options: Any) -> Tensor:
        total = complete(logits, targets, sensitive, **options)
        if mask if engine.timetable.learns_mask(engine.phase_step) else weights:
            return total
        return total - (total - pruner.lagrangian.task_loss(logits, targets))

    pruner.lagrangian.loss = loss  # type: ignore[method-assign]


def one_shot(score: str, *, constrained: bool = False) -> Method:
    """All channels go at once by a score of the dense model; the remaining passes tune the smaller one.

    Args:
        score: A name of :data:`.baselines.SCORES`.
        constrained: Whether tuning is under the constraint, with the package's multipliers and choice of a moment.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        model, spent = cut(problem, budget, score)
        result = tuned(problem, model, budget.passes - spent, budget.lr, problem.constraint if constrained else None)
        return Outcome(result, budget.passes)

    return method


def prune_then_fair(score: str) -> Method:
    """P&F: prune and fine-tune for half of the passes, then train the small model under the constraint."""

    def method(problem: Problem, budget: Budget) -> Outcome:
        model, spent = cut(problem, budget, score)
        half = budget.passes // 2
        model = tuned(problem, model, half - spent, budget.lr, None)
        return Outcome(tuned(problem, model, budget.passes - half, budget.lr, problem.constraint), budget.passes)

    return method


def fair_then_prune(score: str) -> Method:
    """F&P: train the dense model under the constraint for half of the passes, then prune and fine-tune."""

    def method(problem: Problem, budget: Budget) -> Outcome:
        half = budget.passes // 2
        fair = tuned(problem, copy.deepcopy(problem.dense), half, budget.lr, problem.constraint)
        model, spent = cut(problem, budget, score, source=fair)
        return Outcome(tuned(problem, model, budget.passes - half - spent, budget.lr, None), budget.passes)

    return method


def with_objective(make: Callable[[Problem], Any]) -> Method:
    """Magnitude, then tuning on another paper's fair loss."""

    def method(problem: Problem, budget: Budget) -> Outcome:
        model, _ = cut(problem, budget, "magnitude")
        tune(problem, model, make(problem), steps=budget.passes, lr=budget.lr)
        return Outcome(model, budget.passes)

    return method


def excess_gap(problem: Problem) -> Any:
    """CEAG's loss, measured on the dense model."""
    return ExcessGapObjective.of_dense(
        problem.dense,
        problem.splits["train"],
        groups=problem.groups,
        tolerance=problem.setting.tolerance,
        dual_lr=DUAL_RATE,
    )


ONE_SHOT = ("random", "magnitude", "magnitude uniform", "group_norm", "taylor", "fpgm", "lamp", "snip")
NNI = {"nni fpgm": fpgm, "nni taylor": taylor, "nni agp (l1)": gradual("L1NormPruner")}
TORCH_PRUNING = {
    "torch-pruning magnitude": by_torch_pruning(lambda: tp.importance.GroupMagnitudeImportance(p=2)),
    "torch-pruning lamp": by_torch_pruning(tp.importance.LAMPImportance),
    "torch-pruning taylor": by_torch_pruning(tp.importance.GroupTaylorImportance, gradients=True),
    "torch-pruning isomorphic": by_torch_pruning(tp.importance.GroupTaylorImportance, gradients=True, isomorphic=True),
}
PLAIN = (*ONE_SHOT, "lottery ticket", *NNI, *TORCH_PRUNING)  # know nothing of the constraint
METHODS: dict[str, Method] = {
    "dense": dense,
    **{name: one_shot(name) for name in ONE_SHOT},
    "lottery ticket": ticket(),
    "fairgrape": one_shot("fairgrape"),
    "fairprune": one_shot("fairprune"),
    "ceag": with_objective(excess_gap),
    "equalised loss": with_objective(lambda problem: EqualisedLoss(problem.groups, dual_lr=DUAL_RATE)),
    "prune-then-fair": prune_then_fair("magnitude"),
    "fair-then-prune": fair_then_prune("magnitude"),
    "lottery-then-fair": ticket(repair=True),
    "random + constraint": one_shot("random", constrained=True),
    "magnitude + constraint": one_shot("magnitude", constrained=True),
    "magnitude uniform + constraint": one_shot("magnitude uniform", constrained=True),
    "fairgrape + constraint": one_shot("fairgrape", constrained=True),
    "lamp + constraint": one_shot("lamp", constrained=True),
    "snip + constraint": one_shot("snip", constrained=True),
    "fairprune + constraint": one_shot("fairprune", constrained=True),
    **{name: by_nni(make_masks) for name, make_masks in NNI.items()},
    **TORCH_PRUNING,
    "bifp": bifp(),
}


def applies(method: str, setting: Setting) -> bool:
    """Whether there is such a run: NNI's masks of rows cannot hide heads, nor channels that a layer norm crosses."""
    return method not in NNI or setting.network != "vit"
