"""The loss that both levels minimise: task loss plus multipliers times surrogate violations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, DataError, FairPruneWarning, TrainingStateError
from .constraints import Constraint
from .groups import check_groups
from .multipliers import MultiplierConfig
from .outputs import Outputs
from .tracker import ConstraintTracker

TaskLoss = Callable[[Tensor, Tensor], Tensor]

TRAIN = "train"
VALIDATION = "validation"
LOOK_AFTER = 20  # batches after which a group that was never met is worth a warning


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy for class logits ``(N, C)``, binary cross entropy for ``(N,)`` or ``(N, 1)``."""
    if logits.dim() == 2 and logits.shape[1] > 1:
        return F.cross_entropy(logits, targets.reshape(-1).long())
    return F.binary_cross_entropy_with_logits(logits.reshape(-1), targets.reshape(-1).to(logits.dtype))


class Lagrangian:
    """L(θ, m, λ) = ℓ(m ⊙ θ) + Σ λ · surrogate violation, over any number of constraints (METHOD section 2).

    Args:
        constraints: None, one or several; all read the same sensitive attribute.
        config: How the multipliers move.
        task_loss: ``(logits, targets) → scalar``; default cross entropy.
        driver: Which split moves the multipliers: ``"train"`` (running counts) or ``"validation"`` (someone
            calls :meth:`dual_step` with the counts of a held-out split).
    """

    def __init__(
        self,
        constraints: Constraint | Sequence[Constraint] | None,
        *,
        config: MultiplierConfig | None = None,
        task_loss: TaskLoss | None = None,
        driver: str = TRAIN,
    ) -> None:
        if isinstance(constraints, Constraint):
            constraints = (constraints,)
        self.constraints = tuple(constraints or ())
        for constraint in self.constraints:
            if not isinstance(constraint, Constraint):
                raise ConfigError(f"expected a constraint such as EqualOpportunity(tolerance=0.02), got {constraint!r}")
        if len({constraint.group_names for constraint in self.constraints}) > 1:
            raise ConfigError("constraints of one run share a sensitive attribute: give them the same groups")
        self.config = config or MultiplierConfig()
        self.task_loss = task_loss or cross_entropy
        self.driver = driver
        self.trackers: list[ConstraintTracker] = []
        self.batches = 0

    @property
    def group_names(self) -> tuple[str, ...]:
        return self.constraints[0].group_names if self.constraints else ()

    def bind(self, num_classes: int) -> None:
        """Creates the constraints' state once the number of classes is known (the first batch tells it)."""
        if self.trackers and self.trackers[0].num_classes != num_classes:
            raise TrainingStateError(
                f"the logits have {num_classes} classes now and had {self.trackers[0].num_classes} before"
            )
        if not self.trackers:
            self.trackers = [ConstraintTracker(c, num_classes, self.config) for c in self.constraints]

    def parse(self, logits: Tensor, targets: Tensor, sensitive: Tensor) -> tuple[Outputs, Tensor]:
        """A checked batch: outputs and group ids ``(N,)``; raises :class:`~..errors.DataError` otherwise."""
        outputs = Outputs.parse(logits, targets)
        groups = check_groups(
            sensitive,
            batch=len(outputs.targets),
            group_names=self.group_names,
            device=outputs.logits.device,
        )
        return outputs, groups

    def loss(self, logits: Tensor, targets: Tensor, sensitive: Tensor | None, *, count: bool = True) -> Tensor:
        """The Lagrangian of a batch, a scalar.

        Args:
            logits: ``(N,)``, ``(N, 1)`` or ``(N, C)``.
            targets: ``(N,)`` class ids.
            sensitive: ``(N,)`` group ids; may be ``None`` only when there is no constraint.
            count: Whether the batch enters the running counts of the constraints (as training batches do).
        """
        if not self.constraints:
            if self.task_loss is cross_entropy:
                Outputs.parse(logits, targets)  # says more about an unusable batch than the loss would
            return self.task_loss(logits, targets)
        if sensitive is None:
            raise DataError(f"{self.constraints[0].name} needs the sensitive attribute: call loss(logits, y, s)")
        # Checked before the task loss, which would say less about what is wrong with a batch.
        outputs, groups = self.parse(logits, targets, sensitive)
        total = self.task_loss(logits, targets)
        if not bool(torch.isfinite(total.detach())):
            return total  # nothing of such a batch enters the counts; the engine refuses it
        self.bind(outputs.num_classes)
        for tracker in self.trackers:
            total = total + tracker.penalty(outputs, groups, count=count)
        self.batches += int(count)
        if count and self.batches == LOOK_AFTER:
            self._warn_of_missing_groups()
        return total

    def _warn_of_missing_groups(self) -> None:
        """Once, early: a loop of the user's own has nobody who looks at all the data first."""
        missing = [
            f"{rate.name} of group {name}"
            for tracker in self.trackers
            for rate, totals in zip(tracker.rates, tracker.counts.totals.tolist(), strict=True)
            for name, total in zip(self.group_names, totals, strict=True)
            if total == 0
        ]
        if missing:
            warnings.warn(
                f"after {LOOK_AFTER} batches no sample was seen for {'; '.join(missing[:5])}: nothing constrains them. "
                "Check how the sensitive attribute is read, and that every group has samples with the label the "
                "constraint conditions on",
                FairPruneWarning,
                stacklevel=5,
            )

    def dual_step_from_training(self) -> None:
        """Moves the multipliers by the running training counts, unless a held-out split drives them."""
        if self.driver == TRAIN:
            for tracker in self.trackers:
                tracker.dual_step(tracker.counts, TRAIN)

    def state_dict(self) -> dict[str, Any]:
        return {"trackers": [tracker.state_dict() for tracker in self.trackers], "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]
        if state["trackers"]:
            self.bind(state["trackers"][0]["num_classes"])
        for tracker, saved in zip(self.trackers, state["trackers"], strict=True):
            tracker.load_state_dict(saved)
