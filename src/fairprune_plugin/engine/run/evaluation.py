"""What a run of ``fit`` measures of its model: dense rates, validation, and how far training data exceed a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

from ...fairness.evaluation import Evaluation
from ...fairness.lagrangian import TRAIN, VALIDATION
from ..loaders.batches import Forward
from ..loaders.randomness import generator_states, random_state, set_generator_states, set_random_state
from ..measure.evaluate import evaluate
from .beside import beside
from .options import Host
from .preflight import length


class RunEvaluation:
    """Passes over a run's data, without training.

    Args:
        host: The pruner.
        train: Training batches.
        validation: Held-out batches, if there are any.
        forward: ``(model, x) → logits``.
        total: Training steps of the run: as many batches are looked at of training data whose length nobody knows, which
            may never end.

    Attributes:
        passes: Batches looked at so far, those of the multipliers included (the run adds them); those that the dense
            model was measured on are not.
    """

    def __init__(
        self,
        host: Host,
        train: Iterable[Any],
        validation: Iterable[Any] | None,
        forward: Forward,
        *,
        total: int,
    ) -> None:
        self._host = host
        self._total = total
        self._train = beside(train)
        self._validation = beside(validation)
        self._forward = forward
        self.passes = 0

    def of_dense_model(self) -> Evaluation:
        """Dense rates of every split a constraint will be compared on, and the "before" of the report."""
        lagrangian, model, forward = self._host.lagrangian, self._host.model, self._forward
        # Also where the whole data tell which groups are large enough to be constrained.
        needed = any(c.relative_to_dense or c.min_group_size for c in lagrangian.constraints)
        train = None
        if needed or self._validation is None:
            train = evaluate(
                model, self._whole(), lagrangian, split=TRAIN, forward=forward, dense=True, shard_of=self._train
            )
        if self._validation is None:
            assert train is not None
            return train
        return evaluate(model, self._validation, lagrangian, split=VALIDATION, forward=forward, dense=True)

    def held_out(self) -> Evaluation:
        """On validation data; without any, on training data."""
        if self._validation is None:
            return self._of(self._whole(), TRAIN, shard_of=self._train)
        return self._of(self._validation, VALIDATION)

    def training_excess(self) -> float:
        """By how much the gap on training data exceeds a tolerance, on as many batches as validation has; an undefined
        gap has no say. (The running counts of training are no substitute: they are of train mode, and lag behind.)"""
        lagrangian = self._host.lagrangian
        if not lagrangian.constraints:
            return 0.0
        batches = length(self._validation) if self._validation is not None else None
        # A look at the data must not change the order in which training sees them.
        state, generators = random_state(), generator_states(self._train)
        sample = islice(self._train, batches or lagrangian.config.window)
        evaluation = self._of(sample, TRAIN, shard_of=self._train)
        set_generator_states(self._train, generators)
        set_random_state(state)
        self.passes += batches or 0
        return max([0.0, *(v.excess for v in evaluation.verdicts if not math.isnan(v.gap))])

    def _whole(self) -> Iterable[Any]:
        """The training data, once."""
        return self._train if length(self._train) is not None else islice(self._train, self._total)

    def _of(self, loader: Iterable[Any], split: str, *, shard_of: Iterable[Any] | None = None) -> Evaluation:
        self.passes += length(loader) or 0
        lagrangian, model = self._host.lagrangian, self._host.model
        return evaluate(model, loader, lagrangian, split=split, forward=self._forward, shard_of=shard_of)
