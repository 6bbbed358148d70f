"""The best model of a run so far: one that tells classes apart, feasible before infeasible, then accurate."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..fairness.evaluation import Evaluation


@dataclass(frozen=True)
class Snapshot:
    """A model's state (at the target sparsity), how it did on the validation split, and by how much the gap on
    training data exceeded the tolerance."""

    state: dict[str, Any]
    keep: Tensor
    evaluation: Evaluation
    step: int
    training_excess: float = 0.0


GAP = "gap"
UPPER_BOUND = "upper_bound"
EXTRA = "_extra_state"
BOTH = "both"
SELECTIONS = (BOTH, GAP, UPPER_BOUND)


def rank(evaluation: Evaluation, select_by: str = GAP, training_excess: float = 0.0) -> tuple[float, ...]:
    """Order of preference: within the tolerance first, then accuracy less the excess over the tolerance.

    A model that predicts one class for everybody has equal rates and no use. Right after many channels have gone nearly
    every network does so for some steps, so it comes after every other model, feasible or not.

    Args:
        evaluation: Of a snapshot.
        select_by: Whether the excess is that of the gap (``GAP``), of the upper bound of its 95 % interval
            (``UPPER_BOUND``), or of the gap with that on training data added once feasible moments are apart (``BOTH``).
        training_excess: By how much the gap on training data exceeds the tolerance.
    """
    return (-float(evaluation.degenerate), *_by_rule(evaluation, select_by, training_excess))


def _by_rule(evaluation: Evaluation, select_by: str, training_excess: float) -> tuple[float, ...]:
    # Feasible first. A gap is known to a few points at best, so that an excess may not cost any amount of accuracy: of
    # infeasible moments, the one with the least excess was often the first at the target size, points below the others in
    # accuracy, by luck of a noisy gap.
    by_gap = (-float(evaluation.excess > 0), evaluation.accuracy - evaluation.excess)
    if select_by == UPPER_BOUND:
        upper = evaluation.upper_excess
        # An undefined gap leaves every moment of a run without an upper bound: then the defined gaps decide.
        return (-float(upper > 0), evaluation.accuracy - upper, *by_gap)
    if select_by == BOTH:
        # The best of many moments by one small split is partly the luckiest one: a gap that training data see as well is
        # not.
        return (by_gap[0], by_gap[1] - training_excess)
    return by_gap


class BestSnapshot:
    """Keeps the best snapshot by :func:`rank`; ties go to the later one, whose weights have settled longer."""

    def __init__(self, select_by: str = GAP) -> None:
        self._select_by = select_by
        self.best: Snapshot | None = None

    def could_win(self, evaluation: Evaluation) -> bool:
        """Whether a model could be the best so far; if not, its training gap need not be measured."""
        if self.best is None:
            return True
        best = rank(self.best.evaluation, self._select_by, self.best.training_excess)
        return rank(evaluation, self._select_by) >= best

    @torch.no_grad()
    def offer(
        self, model: nn.Module, keep: Tensor, evaluation: Evaluation, step: int, *, training_excess: float = 0.0
    ) -> bool:
        """Takes a copy of the model if it is the best so far; returns whether it was."""
        offered = rank(evaluation, self._select_by, training_excess)
        if self.best is not None and offered < rank(self.best.evaluation, self._select_by, self.best.training_excess):
            return False
        state = {
            name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
            for name, value in model.state_dict().items()
        }
        self.best = Snapshot(state, keep.clone(), evaluation, step, training_excess)
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
