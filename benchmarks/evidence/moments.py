"""The choice of a moment as ``fit`` makes it, for a training loop that is not its own: NNI's."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fairprune_plugin.engine.measure.evaluate import evaluate, recalibrate_batch_norm
from fairprune_plugin.engine.results.snapshots import AUTO, BOTH, BestSnapshot, bar, rank
from fairprune_plugin.fairness.evaluation import Evaluation
from fairprune_plugin.fairness.lagrangian import Lagrangian

from .problems import Problem
from .tuning import batches

RECALIBRATION = 50  # forward passes for batch norms, as in `fit`


class Moments:
    """The best moment of a run by validation (among equals by training data), and its batch-norm statistics.

    Args:
        problem: Data, constraint, and the dense model that a constraint may compare with.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._lagrangian = Lagrangian(problem.constraint)
        self._best = BestSnapshot(AUTO)
        if problem.constraint.relative_to_dense:
            for split in ("train", "validation"):
                evaluate(problem.dense, problem.splits[split], self._lagrangian, split=split, dense=True)

    def offer(self, model: nn.Module, keep: Tensor, step: int) -> None:
        """Keeps the model's state if it is the best so far.

        Args:
            model: With its final mask, ``(U,)`` bool.
            keep: That mask.
            step: Forward-backward passes so far.
        """
        evaluation = self._validated(model)
        if self._best.could_win(evaluation):
            over = self._training_excess(model) if self._best.rule(evaluation) == BOTH else 0.0
            self._best.offer(model, keep, evaluation, step, training_excess=over)

    def restore(self, model: nn.Module) -> None:
        """Brings the best moment back, in place; without one the model stays as it is."""
        if self._best.best is not None:
            self._best.restore(model)

    def recalibrate(self, model: nn.Module) -> None:
        """Fresh batch-norm statistics, kept only if the model is no worse with them."""
        before = self._validated(model)
        buffers = copy.deepcopy(dict(model.named_buffers()))
        recalibrate_batch_norm(
            model, batches(self._problem, RECALIBRATION, order=self._problem.seed), batches=RECALIBRATION
        )
        rule = self._best.rule(before)
        if rank(self._validated(model), rule) < bar(before, rule):
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])

    def _validated(self, model: nn.Module) -> Evaluation:
        return self._evaluated(model, self._problem.splits["validation"], "validation")

    def _training_excess(self, model: nn.Module) -> float:
        """By how much the gap exceeds the tolerance on as many training batches as validation has."""
        count = len(self._problem.splits["validation"])
        with torch.random.fork_rng():  # a look at the data must not change the order in which training sees them
            seen = self._evaluated(model, islice(self._problem.training(self._problem.seed), count), "train")
        return max([0.0, *(verdict.excess for verdict in seen.verdicts if not math.isnan(verdict.gap))])

    def _evaluated(self, model: nn.Module, loader: Iterable[Any], split: str) -> Evaluation:
        return evaluate(model, loader, self._lagrangian, split=split)
