"""Every method of the comparison, by name: from a dense model and a budget to a smaller model."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin import Constraint
from fairprune_plugin.engine.evaluate import recalibrate_batch_norm
from fairprune_plugin.torch_pruning import BiFPPruner

from .baselines import SCORES, ScoringContext, best_mask, remove_units
from .baselines.equalised_loss import EqualisedLoss
from .baselines.excess_gap import ExcessGapObjective
from .baselines.lottery_ticket import Ticket, lottery_ticket
from .baselines.single_weights import SingleWeights
from .moments import RECALIBRATION
from .nni_masks import CALIBRATION, HostMasks, fpgm, gradual, taylor
from .objective_tuning import tune
from .problems import Problem, Setting
from .tuning import MOMENTS, Budget, batches, make_optimizer

DUAL_RATE = 0.5  # of CEAG's and the equalised loss's own multipliers, per step; docs/results.md says how it was chosen


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        model: The smaller model.
        passes: Forward-backward passes it took.
        details: Anything worth keeping in the record.
    """

    model: nn.Module
    passes: int
    details: dict[str, Any] = field(default_factory=dict)


Method = Callable[[Problem, Budget], Outcome]


def dense(problem: Problem, budget: Budget) -> Outcome:
    """The dense model as it is."""
    return Outcome(problem.dense, 0)


def bifp(*, importance: str | None = None, driver: str | None = None, levels: str = "both", **bilevel: Any) -> Method:
    """The package's method.

    Args:
        importance: ``"random"``: where the scores start; default: the group magnitude.
        driver: Which data move the multipliers; default: validation.
        levels: Where the constraint counts: ``"both"``, ``"weights"``, ``"mask"`` or ``"none"``.
        **bilevel: Settings of :class:`fairprune_plugin.engine.config.BiLevelConfig`.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        model = copy.deepcopy(problem.dense)
        options: dict[str, Any] = {"bilevel": bilevel or None}
        if importance == "random":
            options["importance"] = tp.importance.RandomImportance()
        pruner = _pruner(problem, model, budget, problem.constraint, **options)
        if levels != "both":
            restrict(pruner, mask=levels == "mask", weights=levels == "weights")
        result = _fit(problem, pruner, model, budget.passes, budget.lr, driver=driver)
        return Outcome(result.model, budget.passes, {"feasible": result.feasible})

    return method


def restrict(pruner: BiFPPruner, *, mask: bool, weights: bool) -> None:
    """Takes the constraint out of the loss of one level (or both); rates are counted and multipliers move as before."""
    complete, engine = pruner.lagrangian.loss, pruner.engine

    def loss(logits: Tensor, targets: Tensor, sensitive: Any = None, *, count: bool = True) -> Tensor:
        total = complete(logits, targets, sensitive, count=count)
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


def ticket(*, repair: bool = False) -> Method:
    """Lottery Ticket: rounds of training, removal of a fifth and rewinding to the given dense weights.

    Args:
        repair: Whether the last training is a fair one: two stages, as the paper's LTH baseline.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        search = budget.passes // 2 if repair else budget.passes
        model = copy.deepcopy(problem.dense)
        pruner = _pruner(problem, model, budget, None)
        found = find_ticket(problem, _context(problem, pruner, 0), pruner.budget.project, budget, search)
        remove_units(pruner, found.keep)
        # Short trainings after a rewind end with running statistics of another network; `fit` measures them anew too.
        recalibrate_batch_norm(model, batches(problem, RECALIBRATION, order=problem.seed), batches=RECALIBRATION)
        if repair:
            model = tuned(problem, model, budget.passes - search, budget.lr, problem.constraint)
        return Outcome(model, budget.passes, {"trainings": list(found.passes)})

    return method


def find_ticket(
    problem: Problem,
    context: ScoringContext,
    project: Callable[[Tensor, float], Tensor],
    budget: Budget,
    passes: int,
) -> Ticket:
    """Rounds of plain training, removal and rewinding to the dense weights; the context's model ends masked and trained.

    Args:
        problem: Data and dense model.
        context: A copy of the dense model and its units.
        project: ``(scores, progress) → keep``.
        budget: Ratio and learning rate.
        passes: Of all trainings together.
    """

    def train(steps: int, after_step: Callable[[], None]) -> None:
        optimizer, schedule = make_optimizer(problem, context.model, steps, budget.lr)
        context.model.train()
        for x, y, _ in batches(problem, steps, order=problem.seed):
            optimizer.zero_grad()
            F.cross_entropy(context.model(x), y).backward()
            optimizer.step()
            schedule.step()
            after_step()

    rewind = copy.deepcopy(problem.dense.state_dict())
    return lottery_ticket(context, project=project, ratio=budget.ratio, rewind=rewind, train=train, passes=passes)


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
    pruner = _pruner(problem, copy.deepcopy(problem.dense), Budget(0.5, 2, budget.lr, "channels"), None)
    widths = [group.channels.num_units for group in pruner.host_groups]

    def gone(ratio: float) -> float:
        keep = torch.cat([torch.arange(width) >= int(width * ratio) for width in widths])
        return 1 - pruner.budget.size(keep, "params") / pruner.dense_params

    ratios = sorted({hidden / width + 1e-6 for width in widths for hidden in range(width)})
    above = bisect_left(ratios, budget.ratio, key=gone)
    return min(ratios[max(above - 1, 0) : above + 1], key=lambda ratio: abs(gone(ratio) - budget.ratio))


def cut(problem: Problem, budget: Budget, score: str, *, source: nn.Module | None = None) -> tuple[nn.Module, int]:
    """A copy of the dense (or another) model without its lowest units, and the passes that scoring took."""
    uniform = score.endswith(" uniform")
    model = copy.deepcopy(source or problem.dense)
    pruner = _pruner(problem, model, uniform_budget(problem, budget) if uniform else budget, None)
    context = _context(problem, pruner, CALIBRATION)
    scores = SCORES[score.removesuffix(" uniform")](context)
    remove_units(pruner, best_mask(pruner, scores))
    return model, round(context.passes)


def uniform_budget(problem: Problem, budget: Budget) -> Budget:
    """The same share of the channels in every layer, such that the size is that of the parameter budget."""
    low, high = 0.0, 1.0
    size = budget.ratio
    for _ in range(12):
        middle = (low + high) / 2
        pruner = _pruner(problem, copy.deepcopy(problem.dense), Budget(middle, 2, budget.lr, "channels"), None)
        keep = pruner.budget.project(pruner.engine.scores.value(), 1.0)
        gone = 1 - pruner.budget.size(keep, "params") / pruner.dense_params
        low, high = (middle, high) if gone < size else (low, middle)
    return Budget(low, budget.passes, budget.lr, "channels")


def _context(problem: Problem, pruner: BiFPPruner, count: int) -> ScoringContext:
    return ScoringContext.of_pruner(
        pruner,
        batches(problem, max(count, 1), order=problem.seed),
        groups=problem.groups,
        max_batches=max(count, 1),
        seed=problem.seed,
    )


def _pruner(
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
    pruner = _pruner(problem, model, Budget(0.0, passes, lr), constraint)
    return _fit(problem, pruner, model, passes, lr, after_step=after_step).model


def _fit(
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
        progress=False,
    )


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
PLAIN = (*ONE_SHOT, "lottery ticket", *NNI)  # know nothing of the constraint
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
    "bifp": bifp(),
}


def applies(method: str, setting: Setting) -> bool:
    """Whether there is such a run: NNI's masks of rows cannot hide heads, nor channels that a layer norm crosses."""
    return method not in NNI or setting.network != "vit"
