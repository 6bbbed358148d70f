"""The loss that both levels minimise: task loss plus multipliers times surrogate violations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import function, shown
from ..distributed import ALONE, Ranks
from ..errors import ConfigError, DataError, TrainingStateError
from ..value_checks import ValueChecks
from ..warn import warn_caller
from .constraint import Constraint
from .constraints import constraints_of, with_floors
from .discovery import discover
from .groups import Groups
from .multipliers import MultiplierConfig
from .one_hot import one_hot_notes
from .outputs import Outputs, Task
from .precision import widened, without_autocast
from .probabilities import ENOUGH, could_be_probabilities
from .tracker import ConstraintTracker

TaskLoss = Callable[[Tensor, Tensor], Tensor]

TRAIN = "train"
VALIDATION = "validation"
LOOK_AFTER = 20  # batches after which a group that was never met is worth a warning


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy for class logits ``(N, C)``; binary cross entropy for ``(N,)``, ``(N, 1)`` and labels ``(N, L)``."""
    if logits.dim() == 2 and logits.shape[1] > 1:
        if targets.shape == logits.shape:
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
        return F.cross_entropy(logits, targets.reshape(-1).long())
    return F.binary_cross_entropy_with_logits(logits.reshape(-1), targets.reshape(-1).to(logits.dtype))


@dataclass(frozen=True)
class ParsedBatch:
    """A checked batch: outputs, and the group ids ``(N,)`` that each constraint sees."""

    outputs: Outputs
    ids: tuple[Tensor, ...]


class Lagrangian:
    """L(θ, m, λ) = ℓ(m ⊙ θ) + Σ λ · surrogate violation, over any number of constraints (docs/method.md, "The constraint").

    Args:
        constraints: None, one or several, each about groups of its own; their floors become constraints too.
        config: How the multipliers move.
        task_loss: ``(logits, targets) → scalar``; default cross entropy.
        driver: Which split moves the multipliers: ``"train"`` (running counts) or ``"validation"`` (someone
            calls :meth:`~.tracker.ConstraintTracker.dual_step` with the counts of held-out data).
        ranks: Processes that train together: their batches are counted together, and :meth:`loss` is such that the mean
            of their gradients is the gradient of all their samples as one batch. All of them call it in step.
    """

    def __init__(
        self,
        constraints: Constraint | Sequence[Constraint] | None,
        *,
        config: MultiplierConfig | None = None,
        task_loss: TaskLoss | None = None,
        driver: str = TRAIN,
        ranks: Ranks = ALONE,
    ) -> None:
        self.constraints = with_floors(constraints_of(constraints))
        function("task_loss", task_loss, "(logits, targets) → scalar")
        if config is not None and not isinstance(config, MultiplierConfig):
            raise ConfigError(
                f"expected multipliers as a MultiplierConfig or a dict of its settings, got {shown(config)}"
            )
        self.config = config or MultiplierConfig()
        self.task_loss = task_loss or cross_entropy
        self.driver = driver
        self.ranks = ranks
        self.trackers: list[ConstraintTracker] = []
        # Ranks wait for each other in every step anyway, and must refuse a batch together: there values are read at once.
        self.checks = ValueChecks(deferred=False if ranks.size > 1 else None)
        self.batches = 0
        self._planned: int | None = None
        self.knows_targets = False
        self._before_last: list[dict[str, Tensor]] | None = None

    @property
    def groupings(self) -> tuple[Groups, ...]:
        """The distinct groupings that the constraints are about, in order of appearance."""
        return tuple(dict.fromkeys(constraint.group_spec for constraint in self.constraints))

    def discover_groups(self, batches: Iterable[tuple[Any, int, torch.device]]) -> None:
        """Fills in groups that were left to the data; see :func:`~.discovery.discover`.

        Args:
            batches: ``(sensitive, N, device)`` of every batch; walked once per grouping that is not declared.
        """
        found = {groups: discover(groups, batches) for groups in self.groupings if not groups.known}
        self.constraints = tuple(
            dataclasses.replace(c, groups=found[c.group_spec]) if c.group_spec in found else c for c in self.constraints
        )

    def refuse_unknown_groups(self) -> None:
        """Before anything is counted.

        Raises:
            TrainingStateError: If groups are still to be discovered.
        """
        for constraint in self.constraints:
            if not constraint.group_spec.known:
                raise TrainingStateError(
                    f"the groups of {constraint.name} are to be discovered from data: call "
                    "pruner.discover_groups(loader) first, or declare them, groups=2"
                )

    def bind(self, task: Task) -> None:
        """Creates the constraints' state once the task is known (the first batch tells it)."""
        if self.trackers and self.trackers[0].task != task:
            raise TrainingStateError(
                f"the logits have {task} now and had {self.trackers[0].task} before: targets are class ids (N,) throughout "
                "(of one-hot rows: y.argmax(1)), or labels (N, L) throughout"
            )
        if not self.trackers:
            # A first look may be in inference mode, whose tensors no training could go on with.
            with torch.inference_mode(False):
                self.trackers = [ConstraintTracker(c, task, self.config, self.ranks) for c in self.constraints]
            if self._planned is not None:
                self.plan(self._planned)

    def plan(self, steps: int) -> None:
        """Says how many training steps there are, which is what the speed of the multipliers depends on."""
        self._planned = steps
        for tracker in self.trackers:
            tracker.multipliers.plan(steps)

    def parse(self, logits: Tensor, targets: Tensor, sensitive: Any) -> ParsedBatch:
        """A checked batch.

        Args:
            logits: ``(N,)``, ``(N, 1)``, ``(N, C)``, or ``(N, L)`` of labels.
            targets: ``(N,)`` class ids, or ``(N, L)``.
            sensitive: ``(N,)`` or ``(N, A)`` group ids, or a mapping of ``(N,)`` ones.

        Raises:
            DataError: If anything is missing or does not fit.
            TrainingStateError: If groups are still to be discovered.
        """
        outputs = Outputs.parse(logits, targets)
        self.refuse_unknown_groups()
        ids: dict[Groups, Tensor] = {}
        for constraint in self.constraints:
            groups = constraint.group_spec
            if groups not in ids:
                ids[groups] = groups.checked_ids(sensitive, batch=len(outputs.targets), device=outputs.logits.device)
        return ParsedBatch(outputs, tuple(ids[constraint.group_spec] for constraint in self.constraints))

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        sensitive: Any = None,
        *,
        task_loss: Tensor | None = None,
        count: bool = True,
    ) -> Tensor:
        """The Lagrangian of a batch, a scalar.

        Args:
            logits: ``(N,)``, ``(N, 1)``, ``(N, C)``, or ``(N, L)`` of labels; of reduced precision, they become float32.
            targets: ``(N,)`` class ids, or ``(N, L)``.
            sensitive: Group ids; may be ``None`` only when there is no constraint.
            task_loss: Of this batch, a scalar, where it was computed already; default: :attr:`task_loss` is called.
            count: Whether the batch enters the running counts of the constraints (as training batches do).
        """
        logits = widened(logits)
        ours = task_loss is None and self.task_loss is cross_entropy
        if not self.constraints:
            if ours:
                # Says more about an unusable batch than the loss would.
                outputs = Outputs.parse(logits, targets)
                targets = self._usable(targets, outputs)
                self._look_at_targets(outputs, count)
            loss = self._task_value(logits, targets, task_loss)
            if count and self.ranks.size > 1 and bool(torch.isfinite(loss.detach())):
                loss = _weighed(loss, len(logits), self.ranks.meet(len(logits)), ours)
            return loss
        # Checked before the task loss, which would say less about what is wrong with a batch.
        batch = self._required(logits, targets, sensitive)
        targets = self._usable(targets, batch.outputs)
        if task_loss is None:
            self._refuse_labels(batch.outputs)
        self._look_at_targets(batch.outputs, count)
        value = self._task_value(logits, targets, task_loss)
        return self._add_penalties(value, batch, logits, targets, count=count, ours=ours)

    def _usable(self, targets: Tensor, outputs: Outputs) -> Tensor:
        """Targets that a loss survives, although nobody has looked yet at whether they were good."""
        return targets if self.checks.good() is None else outputs.targets.reshape(targets.shape).to(targets.dtype)

    def _task_value(self, logits: Tensor, targets: Tensor, given: Tensor | None) -> Tensor:
        value = self.task_loss(logits, targets) if given is None else given
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            expected = "task_loss(logits, targets) to return" if given is None else "task_loss as"
            raise ConfigError(
                f"expected {expected} one number as a tensor, the loss of the batch, got {got}: use reduction='mean', or "
                ".mean() at the end"
            )
        return value

    def _required(self, logits: Tensor, targets: Tensor, sensitive: Any) -> ParsedBatch:
        if sensitive is None:
            raise DataError(f"{self.constraints[0].name} needs the sensitive attribute: call loss(logits, y, s)")
        return self.parse(logits, targets, sensitive)

    def _add_penalties(
        self, total: Tensor, batch: ParsedBatch, logits: Tensor, targets: Tensor, *, count: bool, ours: bool
    ) -> Tensor:
        if count:
            self._before_last = None
        # Nothing of a batch with a bad loss enters the counts; the engine refuses it.
        good = self.checks.good()
        if good is not None:
            good = good & torch.isfinite(total.detach())
        elif not math.isfinite(float(total.detach())):
            return total
        first = not self.trackers
        self.bind(batch.outputs.task)
        if count and self.batches == 0:
            self._warn_of_probabilities(logits, targets)
        size: float = len(batch.outputs.targets)
        if count and self.ranks.size > 1:
            mean = self.ranks.meet(len(batch.outputs.targets))
            total = _weighed(total, len(batch.outputs.targets), mean, ours)
            size = mean
        if count:
            self._before_last = [] if first else [tracker.counts.now() for tracker in self.trackers]
        try:
            with without_autocast(total.device):
                for tracker, ids in zip(self.trackers, batch.ids, strict=True):
                    total = total + tracker.penalty(batch.outputs, ids, count=count, batch=size, good=good)
        except Exception:
            if count:
                self.batches += 1
                self.uncount_last()
            raise
        self.batches += int(count)
        if count and self.batches == LOOK_AFTER:
            self._warn_of_missing_groups()
        return total

    def _look_at_targets(self, outputs: Outputs, count: bool) -> None:
        """Once, on the first batch: labels may be classes in another dress."""
        if not self.knows_targets and count:
            self.knows_targets = True
            if len(outputs.targets) >= ENOUGH:
                for note in one_hot_notes(outputs):
                    warn_caller(note)

    def _refuse_labels(self, outputs: Outputs) -> None:
        """
        Raises:
            DataError: For labels, if the user's own loss is over classes.
        """
        if outputs.num_labels is not None and isinstance(self.task_loss, nn.CrossEntropyLoss):
            raise DataError(
                f"task_loss is a CrossEntropyLoss, which is over classes, but targets {tuple(outputs.targets.shape)} mean "
                f"{outputs.num_labels} labels: pass class ids, y.argmax(1), or use BCEWithLogitsLoss if they are labels"
            )

    def uncount_last(self) -> None:
        """Takes the last batch that was counted out of the counts again: it turned out to be unusable."""
        if self._before_last is not None:
            self.trackers = self.trackers[
                : len(self._before_last)
            ]  # none, if it was the first batch that told the task
            for tracker, before in zip(self.trackers, self._before_last, strict=True):
                tracker.counts.go_back(before)
            self.batches -= 1
        self._before_last = None

    def _warn_of_probabilities(self, logits: Tensor, targets: Tensor) -> None:
        """Once, on the first batch: rates and surrogates would be those of another decision."""
        if len(logits) >= ENOUGH and could_be_probabilities(logits, targets):
            warn_caller(
                "all outputs of the first batch lie in [0, 1] as probabilities do, but logits are expected: a probability "
                "read as a logit is a decision for class 1 whenever it is positive; remove the sigmoid or softmax at the "
                "end of the model"
            )

    def _warn_of_missing_groups(self) -> None:
        """Once, early: a loop of the user's own has nobody who looks at all the data first."""
        missing = [
            f"{rate.name} of group {name}"
            for tracker in self.trackers
            if tracker.constraint.min_group_size == 0
            for rate, totals in zip(tracker.rates, tracker.counts.totals.cpu().tolist(), strict=True)
            for name, total in zip(tracker.constraint.group_names, totals, strict=True)
            if total == 0
        ]
        if missing:
            warn_caller(
                f"after {LOOK_AFTER} batches no sample was seen for {'; '.join(missing[:5])}: nothing constrains them. "
                "Check how the sensitive attribute is read, and that every group has samples with the label the "
                "constraint conditions on"
            )

    def dual_step_from_training(self, good: Tensor | None = None) -> None:
        """Moves the multipliers by the running training counts, unless a held-out split drives them (or the step was not
        ``good``, 0-d bool)."""
        if self.driver == TRAIN:
            for tracker in self.trackers:
                tracker.dual_step(tracker.counts, TRAIN, good=good)

    def state_dict(self) -> dict[str, Any]:
        return {"trackers": [tracker.state_dict() for tracker in self.trackers], "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]
        if state["trackers"]:
            self.bind(Task(*state["trackers"][0]["task"]))
        for tracker, saved in zip(self.trackers, state["trackers"], strict=True):
            tracker.load_state_dict(saved)


def _weighed(loss: Tensor, samples: int, mean: float, ours: bool) -> Tensor:
    """Our own task loss is a mean over samples: the mean over ranks shall be that over all of their samples. What a task
    loss of the user's does with the size of a batch is not known."""
    return loss * (samples / mean) if ours and samples != mean else loss
