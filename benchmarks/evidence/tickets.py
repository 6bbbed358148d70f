"""Lottery Tickets, of channels and (their search) of single weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from fairprune_plugin.engine.measure.evaluate import recalibrate_batch_norm

from .baselines import ScoringContext, remove_units
from .baselines.lottery_ticket import Ticket, lottery_ticket
from .cuts import scoring_context
from .moments import RECALIBRATION
from .outcomes import Method, Outcome
from .package_runs import make_pruner, tuned
from .problems import Problem
from .tuning import Budget, batches, make_optimizer


def ticket(*, repair: bool = False) -> Method:
    """Lottery Ticket: rounds of training, removal of a fifth and rewinding to the given dense weights.

    Args:
        repair: Whether the last training is a fair one: two stages, as the paper's LTH baseline.
    """

    def method(problem: Problem, budget: Budget) -> Outcome:
        search = budget.passes // 2 if repair else budget.passes
        model = copy.deepcopy(problem.dense)
        pruner = make_pruner(problem, model, budget, None)
        found = find_ticket(problem, scoring_context(problem, pruner, 0), pruner.budget.project, budget, search)
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
