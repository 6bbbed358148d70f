"""The best model of a run so far: one that tells classes apart, feasible before infeasible, then accurate.

Of moments that are as good as each other it is the last.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...fairness.evaluation import Evaluation


@dataclass(frozen=True)
class Snapshot:
    """A model's state (at the target sparsity), how it did on the validation split, and by how much the gap on
    training data exceeded the tolerance; ``bar`` is the rank that a later moment must reach to take its place."""

    state: dict[str, Any]
    keep: Tensor
    evaluation: Evaluation
    step: int
    training_excess: float = 0.0
    bar: tuple[float, ...] = ()


AUTO = "auto"
GAP = "gap"
UPPER_BOUND = "upper_bound"
BOTH = "both"
SETTLED = "settled"
EXTRA = "_extra_state"
SELECTIONS = (AUTO, BOTH, GAP, UPPER_BOUND, SETTLED)
FEW_GROUPS = 2  # their gap is a difference; that of more groups is the largest of several, which noise makes larger


def rule_for(evaluation: Evaluation, select_by: str, few: str = BOTH) -> str:
    """How moments with such an evaluation are told apart.

    Args:
        evaluation: Of any moment of the run.
        select_by: One of :data:`SELECTIONS`.
        few: What ``AUTO`` stands for if no constraint compares more than :data:`FEW_GROUPS` groups; else it is ``SETTLED``.
    """
    if select_by != AUTO:
        return select_by
    return SETTLED if any(counts.num_groups > FEW_GROUPS for counts in evaluation.counts) else few


def rank(evaluation: Evaluation, rule: str = GAP, training_excess: float = 0.0) -> tuple[float, ...]:
    """Order of preference: within the tolerance first, then accuracy less the excess over the tolerance.

    A model that predicts one class for everybody has equal rates and no use. Right after many channels have gone nearly
    every network does so for some steps, so it comes after every other model, feasible or not.

    Args:
        evaluation: Of a snapshot.
        rule: Whether the excess is that of the gap (``GAP``), of the upper bound of its 95 % interval (``UPPER_BOUND``), or
            of the gap with that on training data added once feasible moments are apart (``BOTH``). By ``SETTLED`` it is that
            of the gap, and nothing is first for being within the tolerance.
        training_excess: By how much the gap on training data exceeds the tolerance.
    """
    return (-float(evaluation.degenerate), *_by_rule(evaluation, rule, training_excess))


def bar(evaluation: Evaluation, rule: str, training_excess: float = 0.0) -> tuple[float, ...]:
    """What the rank of a later moment must reach for it to be as good as this one.

    That is this one's own rank; by ``SETTLED`` it is lower by one standard error of the gap, or without one of the accuracy
    (the one-standard-error rule of Breiman, Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984, section
    3.4.3, with the most settled weights in place of the smallest tree).
    """
    *first, score = rank(evaluation, rule, training_excess)
    return (*first, score - evaluation.standard_error) if rule == SETTLED else (*first, score)


def _by_rule(evaluation: Evaluation, rule: str, training_excess: float) -> tuple[float, ...]:
    if rule == SETTLED:
        # Of many groups the largest gap is within the tolerance by luck, at any accuracy.
        return (evaluation.accuracy - evaluation.excess,)
    # Feasible first. A gap is known to a few points at best, so that an excess may not cost any amount of accuracy: of
    # infeasible moments, the one with the least excess was often the first at the target size, points below the others in
    # accuracy, by luck of a noisy gap.
    by_gap = (-float(evaluation.excess > 0), evaluation.accuracy - evaluation.excess)
    if rule == UPPER_BOUND:
        upper = evaluation.upper_excess
        # An undefined gap leaves every moment of a run without an upper bound: then the defined gaps decide.
        return (-float(upper > 0), evaluation.accuracy - upper, *by_gap)
    if rule == BOTH:
        # The best of many moments by one small split is partly the luckiest one: a gap that training data see as well is
        # not.
        return (by_gap[0], by_gap[1] - training_excess)
    return by_gap


class BestSnapshot:
    """Keeps the last snapshot that is as good as the best: ties go to the later one, whose weights have settled longer.

    Args:
        select_by: One of :data:`SELECTIONS`.
        few: What ``AUTO`` stands for where there are few groups.
    """

    def __init__(self, select_by: str = GAP, few: str = BOTH) -> None:
        self._select_by = select_by
        self._few = few
        self.best: Snapshot | None = None

    def rule(self, evaluation: Evaluation) -> str:
        """How moments of this run are told apart."""
        return rule_for(evaluation, self._select_by, self._few)

    def could_win(self, evaluation: Evaluation) -> bool:
        """Whether a model could be the best so far; if not, its training gap need not be measured."""
        return self.best is None or rank(evaluation, self.rule(evaluation)) >= self.best.bar

    @torch.no_grad()
    def offer(
        self, model: nn.Module, keep: Tensor, evaluation: Evaluation, step: int, *, training_excess: float = 0.0
    ) -> bool:
        """Takes a copy of the model if it is the best so far; returns whether it was."""
        rule = self.rule(evaluation)
        if self.best is not None and rank(evaluation, rule, training_excess) < self.best.bar:
            return False
        to_reach = bar(evaluation, rule, training_excess)
        if self.best is not None:
            to_reach = max(to_reach, self.best.bar)
        state = {
            name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
            for name, value in model.state_dict().items()
        }
        self.best = Snapshot(state, keep.clone(), evaluation, step, training_excess, to_reach)
        return True

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Puts the best state back into the live tensors (no parameter object changes)."""
        assert self.best is not None
        live = model.state_dict()
        extra = {name for name in live if name.rpartition(".")[2] == EXTRA or not isinstance(live[name], Tensor)}
        for name, value in self.best.state.items():
            if name not in extra:
                live[name].copy_(value)
        if extra:  # what modules make of it is theirs to say
            model.load_state_dict(copy.deepcopy(self.best.state), strict=False)
