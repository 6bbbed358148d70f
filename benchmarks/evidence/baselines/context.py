"""What a score may look at: a model, its channel units, and calibration batches with their groups."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fairprune_plugin.engine.loaders.batches import Batch, Forward, default_forward, read_batch
from fairprune_plugin.errors import ConfigError, DataError, NonFiniteError
from fairprune_plugin.fairness.groups import Groups
from fairprune_plugin.fairness.lagrangian import TaskLoss, cross_entropy
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.torch_pruning import BiFPPruner

HIDDEN = -1.0  # score of a unit that is hidden already: below every other one, so that masks stay nested


@dataclass
class ScoringContext:
    """A model whose units are to be scored.

    Attributes:
        model: As trained so far; scores leave its weights, gradients, buffers and modes as they were.
        weights: The mask over its units; hidden weights are zero in the model.
        batches: Calibration batches ``(x, y, s)``.
        groups: Of the sensitive attribute.
        task_loss: ``(logits, targets) → scalar``, a mean over samples.
        forward: ``(model, x) → logits``.
        train_mode: Whether calibration uses batch statistics in batch norms, as at initialisation it must.
        seed: Of scores that draw random numbers, and of dropout in ``train_mode``.
        pruner: Whose units they are; only scores of the host's own importances need it.
        passes: Forward-backward passes spent so far: one for each batch.
    """

    model: nn.Module
    weights: MaskedWeights
    batches: Sequence[Any]
    groups: Groups
    task_loss: TaskLoss = cross_entropy
    forward: Forward = default_forward
    train_mode: bool = False
    seed: int = 0
    pruner: BiFPPruner | None = None
    passes: float = field(default=0.0, init=False)

    @classmethod
    def of_pruner(
        cls, pruner: BiFPPruner, loader: Iterable[Any], *, groups: Any = 2, max_batches: int = 16, **options: Any
    ) -> ScoringContext:
        """The units of a pruner, with the first batches of a loader.

        Args:
            pruner: Before its training.
            loader: Batches ``(x, y, s)``.
            groups: A number of groups, names or a mapping, as constraints take them.
            max_batches: Upper bound on calibration batches.
            **options: Other attributes of the context.

        Raises:
            DataError: If the loader is empty.
            ConfigError: If the groups are left to the data.
        """
        parsed = Groups.parse(groups)
        if not parsed.known:
            raise ConfigError(f"expected the groups by number or names, got groups={groups!r}")
        batches = list(itertools.islice(loader, max_batches))
        if not batches:
            raise DataError("expected calibration batches (x, y, s) to score units on, the loader yields none")
        return cls(pruner.model, pruner.engine.weights, batches, parsed, pruner=pruner, **options)

    @property
    def num_groups(self) -> int:
        return len(self.groups.names)

    def read_batches(self) -> Iterator[Batch]:
        """Calibration batches on the model's device."""
        for raw in self.batches:
            yield read_batch(raw, self.model)

    def group_ids(self, batch: Batch) -> Tensor:
        """Group of each sample of a batch, ``(N,)`` int64.

        Raises:
            DataError: If the batch has no sensitive attribute, or one that does not fit the groups.
        """
        return self.groups.checked_ids(batch.sensitive, batch=len(batch.targets), device=batch.targets.device)

    def group_slices(self) -> list[slice]:
        """Where the units of each channel group lie in the flat vector of all units."""
        return [self.weights.of(index) for index in range(len(self.weights.groups))]

    def set_mask(self, keep: Tensor) -> None:
        """Hides units, ``(U,)`` bool, in weights and (with a pruner) norms."""
        if self.pruner is None:
            self.weights.set(keep.to(self.weights.keep.device))
        else:
            self.pruner.engine.set_mask(keep)

    def finish(self, scores: Tensor) -> Tensor:
        """Checked scores ``(U,)`` ≥ 0; :data:`HIDDEN` for hidden units.

        Negative scores are shifted by their minimum, which keeps the order and gives "score per cost" a meaning.

        Raises:
            NonFiniteError: For NaN or infinite scores.
        """
        scores = scores.detach().float()
        if not bool(torch.isfinite(scores).all()):
            bad = int((~torch.isfinite(scores)).sum())
            raise NonFiniteError(
                f"{bad} of {len(scores)} scores are NaN or infinite: look at the calibration batches and at the weights"
            )
        keep = self.weights.keep.to(scores.device)
        if bool(keep.any()):
            scores = scores - scores[keep].min().clamp_max(0.0)
        return torch.where(keep, scores, torch.full_like(scores, HIDDEN))


Score = Callable[[ScoringContext], Tensor]
