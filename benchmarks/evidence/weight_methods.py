"""Every method of the comparison on single weights: from a dense model and a ratio to a model with that many zeros.

The output layer stays. All methods but "magnitude uniform" and "fairgrape" share one budget over all other weights; what
tunes a fixed mask is what tunes a smaller model (:func:`.package_runs.tuned`); hidden weights are set back to zero after
each step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fairprune_plugin import Constraint
from fairprune_plugin.engine.measure.evaluate import recalibrate_batch_norm
from fairprune_plugin.fairness.groups import Groups

from . import nni_masks
from .baselines import Score, ScoringContext, fairgrape, fairprune, snip
from .baselines.equalised_loss import EqualisedLoss
from .baselines.single_weights import SingleWeights, random_weights
from .methods import DUAL_RATE, dense, excess_gap
from .methods import PLAIN as PLAIN_ON_CHANNELS
from .moments import RECALIBRATION
from .nni_masks import CALIBRATION, HostMasks
from .objective_tuning import tune
from .outcomes import Method, Outcome
from .package_runs import tuned
from .problems import Problem
from .tickets import find_ticket
from .tuning import Budget, batches


@dataclass
class Masked:
    """A model whose mask is fixed.

    Attributes:
        units: Of the model; hidden weights are zero.
        passes: Forward-backward passes spent so far, those that made the mask included.
    """

    units: SingleWeights
    passes: int

    @property
    def model(self) -> nn.Module:
        """Trained on in place."""
        return self.units.model

    def tuned(self, problem: Problem, passes: int, lr: float, constraint: Constraint | None) -> None:
        """The package's own tuning, under the constraint if there is one."""
        tuned(problem, self.model, passes, lr, constraint, self.units.weights.reapply)
        self.passes += passes

    def outcome(self, **details: Any) -> Outcome:
        """The record's part of it.

        Raises:
            RuntimeError: If a hidden weight is not zero: the tuning has lost the mask.
        """
        weights, left = self.units.weights, self.units.left()
        if left > int(weights.keep.sum()):
            raise RuntimeError(f"expected at most {int(weights.keep.sum())} weights that are not zero, got {left}")
        sparsity = round(1 - left / weights.num_units, 5)
        return Outcome(self.model, self.passes, {"weights": left, "sparsity": sparsity, **details})


Cut = Callable[[Problem, Budget, nn.Module], Masked]


def by_score(score: Score) -> Cut:
    """The highest scores of a model stay, all at once."""

    def cut(problem: Problem, budget: Budget, model: nn.Module) -> Masked:
        units = units_of(problem, budget, model)
        context = context_of(problem, units)
        units.weights.set(units.project(score(context)))
        return Masked(units, round(context.passes))

    return cut


def by_nni(make_masks: HostMasks, *, shared: bool = True) -> Cut:
    """A pruner of NNI on single weights.

    Args:
        make_masks: One of :mod:`.nni_masks`.
        shared: Whether all layers share one budget (a ``global_group_id``); otherwise the ratio is that of each.
    """

    def cut(problem: Problem, budget: Budget, model: nn.Module) -> Masked:
        config = host_config(units_of(problem, budget, model), shared=shared)
        masks, passes = make_masks(problem, model, config, budget)
        units = units_of(problem, budget, model)  # unwrapped layers have parameters of their own again
        units.weights.set(units.of_masks(masks))
        return Masked(units, passes)

    return cut


def host_config(units: SingleWeights, *, shared: bool = True) -> list[dict[str, Any]]:
    """NNI's ``config_list`` for single weights (a granularity of one entry); biases stay."""
    entry = {"op_names": list(units.names), "target_names": ["weight"], "sparse_ratio": units.ratio}
    return [{**entry, "granularity": [1], **({"global_group_id": "all weights"} if shared else {})}]


def tune_after(cut: Cut, *, constrained: bool = False) -> Method:
    """A fixed mask, and the remaining passes on it.

    Args:
        cut: Where the mask comes from.
        constrained: Whether tuning is under the constraint, with the package's multipliers and choice of a moment.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        masked = cut(problem, budget, copy.deepcopy(problem.dense))
        constraint = problem.constraint if constrained else None
        masked.tuned(problem, budget.passes - masked.passes, budget.lr, constraint)
        return masked.outcome()

    return method


def prune_then_fair(cut: Cut) -> Method:
    """P&F: prune and fine-tune for half of the passes, then train on the same mask under the constraint."""

    def method(problem: Problem, budget: Budget) -> Outcome:
        half = budget.passes // 2
        masked = cut(problem, budget, copy.deepcopy(problem.dense))
        masked.tuned(problem, half - masked.passes, budget.lr, None)
        masked.tuned(problem, budget.passes - half, budget.lr, problem.constraint)
        return masked.outcome()

    return method


def fair_then_prune(cut: Cut) -> Method:
    """F&P: train the dense model under the constraint for half of the passes, then prune and fine-tune."""

    def method(problem: Problem, budget: Budget) -> Outcome:
        half = budget.passes // 2
        fair = tuned(problem, copy.deepcopy(problem.dense), half, budget.lr, problem.constraint)
        masked = cut(problem, budget, fair)
        masked.passes += half
        masked.tuned(problem, budget.passes - masked.passes, budget.lr, None)
        return masked.outcome()

    return method


def with_objective(cut: Cut, make: Callable[[Problem], Any]) -> Method:
    """A fixed mask, then tuning on another paper's fair loss."""

    def method(problem: Problem, budget: Budget) -> Outcome:
        masked = cut(problem, budget, copy.deepcopy(problem.dense))
        steps, reapply = budget.passes - masked.passes, masked.units.weights.reapply
        tune(problem, masked.model, make(problem), steps=steps, lr=budget.lr, after_step=reapply)
        masked.passes += steps
        return masked.outcome()

    return method


def ticket(*, repair: bool = False) -> Method:
    """Lottery Ticket as its paper has it, on single weights with one ranking for all layers.

    Args:
        repair: Whether half of the passes are a fair training of the ticket: two stages, as the paper's LTH baseline.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        search = budget.passes // 2 if repair else budget.passes
        units = units_of(problem, budget, copy.deepcopy(problem.dense))
        found = find_ticket(problem, context_of(problem, units), units.project, budget, search)
        # Short trainings after a rewind end with running statistics of another network; `fit` measures them anew too.
        recalibrate_batch_norm(units.model, batches(problem, RECALIBRATION, order=problem.seed), batches=RECALIBRATION)
        masked = Masked(units, search)
        if repair:
            masked.tuned(problem, budget.passes - search, budget.lr, problem.constraint)
        return masked.outcome(trainings=list(found.passes))

    return method


def bifp(**bilevel: Any) -> Method:
    """The package's method inside NNI: :class:`fairprune_plugin.nni.BiFPPruner` with one unit per weight.

    Args:
        **bilevel: Settings of :class:`fairprune_plugin.engine.config.BiLevelConfig`.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        model = copy.deepcopy(problem.dense)
        config = host_config(units_of(problem, budget, model))
        masks, passes = nni_masks.bifp(problem, model, config, budget, **bilevel)
        units = units_of(problem, budget, model)
        left = units.left()
        units.weights.set(units.of_masks(masks))
        if units.left() < left:
            raise RuntimeError(f"expected hidden weights to be zero already, got {left - units.left()} that are not")
        return Masked(units, passes).outcome()

    return method


def units_of(problem: Problem, budget: Budget, model: nn.Module) -> SingleWeights:
    """All weights that may go."""
    return SingleWeights(model, budget.ratio, problem.arguments(model).get("ignored_layers", ()))


def context_of(problem: Problem, units: SingleWeights) -> ScoringContext:
    """What scores look at: calibration batches, each a pass."""
    seen = list(batches(problem, CALIBRATION, order=problem.seed))
    return ScoringContext(units.model, units.weights, seen, Groups.parse(problem.groups), seed=problem.seed)


MAGNITUDE = by_nni(nni_masks.level)
GRADUAL = by_nni(nni_masks.gradual("LevelPruner"))
RANDOM, SNIP, FAIRPRUNE = by_score(random_weights), by_score(snip), by_score(fairprune)
PLAIN = (*PLAIN_ON_CHANNELS, "gradual magnitude")  # know nothing of the constraint
WEIGHT_METHODS: dict[str, Method] = {
    "dense": dense,
    "random": tune_after(RANDOM),
    "magnitude": tune_after(MAGNITUDE),
    "magnitude uniform": tune_after(by_nni(nni_masks.level, shared=False)),
    "snip": tune_after(SNIP),
    "taylor": tune_after(by_nni(nni_masks.taylor)),
    "gradual magnitude": tune_after(GRADUAL),
    "lottery ticket": ticket(),
    "fairgrape": tune_after(by_score(fairgrape)),
    "fairprune": tune_after(FAIRPRUNE),
    "ceag": with_objective(MAGNITUDE, excess_gap),
    "equalised loss": with_objective(MAGNITUDE, lambda problem: EqualisedLoss(problem.groups, dual_lr=DUAL_RATE)),
    "prune-then-fair": prune_then_fair(MAGNITUDE),
    "fair-then-prune": fair_then_prune(MAGNITUDE),
    "lottery-then-fair": ticket(repair=True),
    "random + constraint": tune_after(RANDOM, constrained=True),
    "magnitude + constraint": tune_after(MAGNITUDE, constrained=True),
    "snip + constraint": tune_after(SNIP, constrained=True),
    "fairprune + constraint": tune_after(FAIRPRUNE, constrained=True),
    "gradual magnitude + constraint": tune_after(GRADUAL, constrained=True),
    "bifp": bifp(),
}
