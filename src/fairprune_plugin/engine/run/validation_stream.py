"""Multipliers driven by held-out data, a batch at a time.

A whole validation pass before every dual step would cost more than the training itself. One validation batch
every few steps, summed up in running counts as long as the split, costs a third of a training step each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ...distributed import Ranks
from ...fairness.counts import RateCounts
from ...fairness.lagrangian import VALIDATION, Lagrangian
from ..data_parallel import is_shard
from ..loaders.batch_stream import BatchStream
from ..loaders.batches import Forward, read_batch
from ..measure.evaluate import mode
from .preflight import length


class ValidationStream:
    """Endless validation batches that move the multipliers.

    Args:
        loader: Held-out data; started over when it ends.
        window: Batches the running counts remember; of ranks with different ones, the longest.
        every: Training steps between two batches; a dual step stands for that many.
        split: Whose dense rates a constraint is compared with.
        and_training: Whether training counts have a say as well: the larger violation counts.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        window: int,
        every: int,
        forward: Forward,
        split: str = VALIDATION,
        and_training: bool = False,
    ) -> None:
        self._and_training = and_training
        self._batches = BatchStream.over(loader, split)
        self._shard = is_shard(loader)
        self._loader = loader
        self._split = split
        self._window = max(window, 2)
        self._agreed = False
        self._every = every
        self._forward = forward
        self._counts: list[RateCounts] = []

    def switch(self, loader: Iterable[Any]) -> None:
        """Goes on with other held-out batches; counts are kept."""
        self._batches = BatchStream.over(loader, self._split)
        self._loader = loader

    @torch.no_grad()
    def dual_step(self, model: nn.Module, lagrangian: Lagrangian) -> None:
        """Looks at one batch (in eval mode) and moves λ by the running strict violation."""
        self._agree(lagrangian.ranks)
        batch = read_batch(next(self._batches), model)
        assert batch.sensitive is not None  # the loader was checked before training
        with mode(model, training=False):
            logits = self._forward(model, batch.inputs)
        checks = lagrangian.checks
        with checks.collecting():
            parsed = lagrangian.parse(logits, batch.targets, batch.sensitive)
            lagrangian.bind(parsed.outputs.task)
            good = checks.good()
            if not self._counts:
                self._counts = self._new_counts(lagrangian)
            for tracker, counts, ids in zip(lagrangian.trackers, self._counts, parsed.ids, strict=True):
                counts.update(parsed.outputs, ids, good)
                tracker.dual_step(counts, self._split, steps=self._every, and_training=self._and_training, good=good)
        checks.end_step()

    def _new_counts(self, lagrangian: Lagrangian) -> list[RateCounts]:
        """Under data parallelism of the batches of all ranks: their sum if each rank has samples of its own, else their
        mean, so that rates do not look as if they rested on more samples than there are."""
        ranks = lagrangian.ranks
        together = None if ranks.size == 1 else ranks.sum if self._shard else ranks.mean
        return [tracker.new_counts(decay=1 - 1 / self._window, reduce=together) for tracker in lagrangian.trackers]

    def _agree(self, ranks: Ranks) -> None:
        """A rank whose loader has a batch fewer than another's must not forget faster: counts, and with them multipliers,
        would no longer be the same on all ranks."""
        if self._agreed:
            return
        self._agreed = True
        self._window = max(ranks.collect(lambda: self._window))
        for counts in self._counts:
            counts.decay = 1 - 1 / self._window

    def state_dict(self) -> dict[str, Any]:
        """Counts, and the position in the held-out batches."""
        counts = [counts.state_dict() for counts in self._counts]
        return {"counts": counts, "batches": self._batches.state_dict(), "length": length(self._loader)}

    def load_state_dict(self, state: dict[str, Any], lagrangian: Lagrangian) -> None:
        """Goes on where :meth:`state_dict` was taken; uses up the global random state, as a batch stream does."""
        self._counts = self._new_counts(lagrangian) if state["counts"] else []
        for counts, saved in zip(self._counts, state["counts"], strict=True):
            counts.load_state_dict(saved)
        batches = state["batches"]
        if lagrangian.ranks.size > 1:
            batches = _position_here(batches, state.get("length"), length(self._loader))
        self._batches.load_state_dict(batches)


def _position_here(state: dict[str, Any], there: int | None, here: int | None) -> dict[str, Any]:
    """A trainer's checkpoint has the first rank's position: after as many batches, another one may be in another pass."""
    taken = state["taken"] + state["pass"] * (there or 0)
    if not there or not here or there == here or not state["taken"]:
        return state
    number, before = divmod(taken - 1, here)
    return {**state, "pass": number, "taken": before + 1}
