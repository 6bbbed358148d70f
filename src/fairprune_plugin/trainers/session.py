"""What every trainer's callback does: the pruner's part of a training loop that somebody else runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..checks import one_of, shown, whole_number
from ..engine.loaders.batches import Forward, default_forward
from ..engine.loaders.census import check_loader
from ..engine.measure.evaluate import evaluate
from ..engine.results.history import history_row
from ..engine.results.metrics import as_hooks, step_row
from ..engine.results.result import HistoryRow
from ..engine.results.snapshots import AUTO, GAP, SETTLED, UPPER_BOUND, BestSnapshot
from ..engine.run.beside import beside
from ..engine.run.interrupt import deferred_interrupt
from ..engine.run.preflight import check_walkable, length
from ..engine.run.running_mean import RunningMean
from ..engine.run.validation_stream import ValidationStream
from ..errors import ConfigError, TrainingStateError
from ..fairness.lagrangian import VALIDATION
from ..warn import warn_caller
from .session_state import load_session_state, session_state


class Session:
    """A pruner in a trainer's hands.

    Args:
        pruner: A :class:`~..torch_pruning.BiFPPruner`.
        validation: Held-out batches ``(x, y, s)`` (or dicts of them) that drive the multipliers and choose the best
            feasible moment at the target size; default: training data drive them, and the last moment is taken.
        dual_every: Optimizer steps between two validation batches that move the multipliers.
        validate_every: Optimizer steps between two evaluations; default a twentieth of the run.
        select_by: What is to be within the tolerance, and whose excess weighs against accuracy where it is not: the
            ``"gap"`` on validation data, or its ``"upper_bound"``; or ``"settled"``; default ``"auto"``: ``"settled"`` for
            more than two groups, else ``"gap"`` (see ``BiFPPruner.fit``).
        forward: ``(model, x) → logits`` for validation batches.
        metrics: One or several :class:`~..engine.results.metrics.Metrics` hooks.
        remove: Whether the hidden channels are removed at the end of training.
        remove_early: Whether they are removed as soon as the mask is final, so that the rest of training is that of the
            smaller model (not with data parallelism).

    Raises:
        ConfigError: For what is no pruner, or a wrong option.
        DataError: For validation batches that cannot be walked again and again.
    """

    def __init__(
        self,
        pruner: Any,
        *,
        validation: Iterable[Any] | None = None,
        dual_every: int = 2,
        validate_every: int | None = None,
        select_by: str = AUTO,
        forward: Forward = default_forward,
        metrics: Any = None,
        remove: bool = True,
        remove_early: bool = False,
    ) -> None:
        _check_pruner(pruner)
        for name, value in (("dual_every", dual_every), ("validate_every", validate_every)):
            if value is not None:
                whole_number(name, value, 1, "steps")
        one_of("select_by", select_by, (AUTO, GAP, UPPER_BOUND, SETTLED))
        check_walkable(validation, VALIDATION)
        if remove_early and not remove:
            raise ConfigError("remove_early=True removes the channels and remove=False leaves them: choose one of them")
        self.pruner = pruner
        self.remove = remove
        self.remove_early = remove_early
        self.metrics = as_hooks(metrics)
        self.history: list[HistoryRow] = []
        self._dtypes = [parameter.dtype for parameter in pruner.model.parameters()]
        self._validation = beside(validation)
        self._forward = forward
        self._dual_every = dual_every
        self._validate_every = validate_every
        self.snapshots = BestSnapshot(select_by, few=GAP)
        self.loss_mean = RunningMean()
        self._losses_of_this_step = 0
        self._stepped = False
        self._ended = False
        self._known: tuple[int, list[torch.optim.Optimizer]] = (
            0,
            [],
        )  # rounds of removal, and optimizers that followed
        self.stream: ValidationStream | None = None
        lagrangian = pruner.lagrangian
        if validation is not None and lagrangian.constraints:
            window = length(validation) or lagrangian.config.window
            self.stream = ValidationStream(validation, window=window, every=dual_every, forward=forward)

    def begin(self, total_steps: int | None, steps_done: int) -> None:
        """At the start of training, once the trainer has loaded its checkpoint, if there was one.

        Args:
            total_steps: Optimizer steps of the whole run, ``None`` if the trainer does not know.
            steps_done: Of them, those that a checkpoint brought.

        Raises:
            TrainingStateError: If the pruner has finished, or is at another step than the trainer.
            ConfigError: If the length of the run is unknown or contradictory, or the model has moved to another device or
                precision, or channels are to be removed in the middle of data-parallel training.
            DataError: For validation data without samples or with one group only, on which the constraint would not act.

        Warns:
            FairPruneWarning: For validation data that lack a group, or samples that a rate conditions on.
        """
        pruner = self.pruner
        if self._all_removed and (self._ended or steps_done == 0):
            raise TrainingStateError(self._why_removed())
        if self._removes_inside and pruner.lagrangian.ranks.size > 1:
            raise ConfigError(
                "with several processes channels cannot be removed in the middle of training, as the trainer's "
                "data-parallel wrapper would go on with the former parameters: leave remove_early out and set "
                "iterative_steps=1, or use fit()"
            )
        if pruner.engine.model is not pruner.model:
            raise ConfigError(
                "a sharded copy of the model (pruner.attach) cannot be trained in a session, whose evaluations and "
                "snapshots are of whole weights: use pruner.loss and pruner.regularize(sharded) in a loop of your own"
            )
        self._check_place()
        self._plan(total_steps)
        if steps_done != pruner.engine.step_index:
            raise TrainingStateError(
                f"the trainer starts at step {steps_done} and the pruner is at step {pruner.engine.step_index}: resume from "
                "a checkpoint that was written with this callback (fit(ckpt_path=…) in Lightning, "
                "train(resume_from_checkpoint=…) in Hugging Face's Trainer), or build model, pruner and callback anew"
            )
        if self.stream is not None:
            pruner.lagrangian.driver = VALIDATION
            if steps_done == 0:
                check_loader(self._validation, pruner.model, pruner.lagrangian, split=VALIDATION)
                pruner.measure_dense(self._validation, split=VALIDATION, forward=self._forward)

    def loss(
        self, logits: Tensor, targets: Tensor, sensitive: Any = None, *, task_loss: Tensor | None = None
    ) -> Tensor:
        """The Lagrangian of a (micro-)batch.

        Args:
            logits: As in :meth:`~..torch_pruning.BiFPPruner.loss`, and so are ``targets`` and ``sensitive``.
            targets: See there.
            sensitive: See there.
            task_loss: The task loss, if the trainer has computed it; default: the pruner's own.
        """
        total: Tensor = self.pruner.loss(logits, targets, sensitive, task_loss=task_loss)
        if torch.is_grad_enabled():
            self.note_loss(total)
        return total

    def note_loss(self, loss: Tensor) -> None:
        """A loss of training that was computed, here or with ``pruner.loss``: enters the running mean."""
        self._losses_of_this_step += 1
        self.loss_mean.update(loss)

    @property
    def has_loss(self) -> bool:
        """Whether a loss was computed since the last update."""
        return self._losses_of_this_step > 0

    @property
    def stepped(self) -> bool:
        """Whether a step was made and :meth:`after_update` is still to come."""
        return self._stepped

    def before_update(self, scaler: Any = None, optimizer: Any = None) -> None:
        """Between the last backward pass and the optimizer's update: one step of weights and mask.

        Args:
            scaler: The trainer's ``torch.amp.GradScaler``, if it has one; it may have unscaled the gradients already.
            optimizer: Whose gradients they are, without the trainer's wrapper; needed with a scaler.
        """
        self._check_followed([optimizer] if isinstance(optimizer, torch.optim.Optimizer) else [])
        self.pruner.regularize(self.pruner.model, scaler=scaler, optimizer=optimizer)
        self._losses_of_this_step = 0
        self._stepped = True

    def pass_over(self) -> None:
        """In place of :meth:`before_update`, when there is no gradient as every batch of the step was left out, or when
        the trainer will leave out the update: it counts as a step, for the trainer counts it too, and the mask keeps to its
        schedule."""
        self.pruner.engine.pass_over()
        self._losses_of_this_step = 0
        self._stepped = True

    def after_update(self, *optimizers: torch.optim.Optimizer) -> dict[str, float]:
        """After the optimizer's update; returns what there is to log of a new evaluation.

        Args:
            optimizers: All that hold parameters of the model, without the trainer's wrappers. Needed where channels are
                removed before the end (``remove_early``, ``iterative_steps``): they go on with the smaller parameters.

        Raises:
            ConfigError: If they are needed and there are none, or hold parameters that a removal has replaced.
        """
        if not self._stepped:
            return {}
        self._stepped = False
        if self._removes_inside and not optimizers:
            raise ConfigError(
                "channels are removed in the middle of training, and the optimizer must follow: call "
                "session.after_update(optimizer)"
            )
        if any(isinstance(optimizer, list | tuple) for optimizer in optimizers):
            raise ConfigError("expected the optimizers one by one, got a list: call session.after_update(*optimizers)")
        self._check_followed(optimizers)
        engine = self.pruner.engine
        if self.stream is not None and engine.step_index % self._dual_every == 0:
            self.stream.dual_step(self.pruner.model, self.pruner.lagrangian)
        if self.metrics:
            row = step_row(engine, self.loss_mean.tensor)
            for hook in self.metrics if self.pruner.lagrangian.ranks.first else ():
                hook.on_step(row)
        if self._removal_is_due():
            self._remove(optimizers)
        every = self._validate_every or max(1, self.pruner.total_steps // 20)
        due = engine.step_index % every == 0 or engine.finished
        return self._evaluate() if self._validation is not None and due else {}

    def step_scalars(self) -> dict[str, float]:
        """What there is to log of the last step; reads values off the device."""
        return step_row(self.pruner.engine, self.loss_mean.tensor).scalars()

    def end(self) -> bool:
        """At the end of training: the best moment is restored and the channels are removed. Returns whether they were.

        A run that was stopped before the mask reached its target is left as it is, with a warning.
        """
        engine = self.pruner.engine
        if self._all_removed:
            if not self._ended:
                self._restore_smaller()
            self._ended = True
            return True  # early, or by the user, who called step(); or the trainer had nothing left to train
        if not engine.at_target:
            warn_caller(
                f"training stopped after {engine.phase_step} of {self.pruner.total_steps} steps, before the mask reached "
                "its target: no channel is removed, hidden ones are zeroed in the model. Resume from a checkpoint, or "
                "plan fewer steps"
            )
            return False
        if self.snapshots.best is not None:
            self.snapshots.restore(self.pruner.model)
        if self.remove:
            self.pruner.step()
        self._ended = True
        return self.remove

    @property
    def _all_removed(self) -> bool:
        return bool(self.pruner.current_step >= self.pruner.iterative_steps)

    @property
    def _removes_inside(self) -> bool:
        """Whether channels go before the end of training."""
        return self.remove_early or self.pruner.iterative_steps > 1

    def _removal_is_due(self) -> bool:
        """At the end of every round but the last, whose channels may go as soon as nothing moves the mask any more."""
        engine, rounds = self.pruner.engine, self.pruner.rounds_left()
        if rounds > 1:
            return bool(engine.finished)
        return bool(self.remove_early and rounds == 1 and engine.at_target and not engine.finished)

    def _remove(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        with deferred_interrupt(True):  # between the two nothing could be trained
            self.pruner.step()
            for optimizer in optimizers:
                self.pruner.rebuild_optimizer(optimizer)

    def _check_followed(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """An optimizer of the dense model would train nothing of the smaller one, and say nothing."""
        rounds, known = self._known
        if rounds != self.pruner.current_step:
            known = []
        new = [optimizer for optimizer in optimizers if all(optimizer is not other for other in known)]
        if not new or self.pruner.current_step == 0:
            return
        replaced = {id(parameter) for parameter in self.pruner.replaced()}
        for optimizer in new:
            if any(id(p) in replaced for group in optimizer.param_groups for p in group["params"]):
                raise ConfigError(
                    f"{type(optimizer).__name__} holds parameters of before the removal of channels, which the model has no "
                    "more: after session.load_state_dict call pruner.rebuild_optimizer(optimizer), then "
                    "optimizer.load_state_dict; in a LightningModule build it inside of configure_optimizers"
                )
        self._known = (self.pruner.current_step, [*known, *new])

    def _why_removed(self) -> str:
        engine = self.pruner.engine
        if self._ended or engine.finished:
            return (
                "this pruner has removed its channels already: to train the smaller model on, use a trainer without its "
                "callback"
            )
        return (
            f"the channels were removed, and training then broken off after {engine.step_index} of "
            f"{self.pruner.total_steps} steps: build model, pruner and callback anew and resume from a checkpoint of that "
            "run, or train the smaller model on in a trainer without the callback"
        )

    def _restore_smaller(self) -> None:
        """The best moment of a model whose channels are gone, if it came after that.

        Warns:
            FairPruneWarning: If it came before, and so has other sizes.
        """
        best = self.snapshots.best
        if best is None:
            return
        now = {name: value.shape for name, value in self.pruner.model.state_dict().items() if isinstance(value, Tensor)}
        if {name: value.shape for name, value in best.state.items() if isinstance(value, Tensor)} == now:
            self.snapshots.restore(self.pruner.model)
        else:
            warn_caller(
                f"the best moment, at step {best.step}, came before pruner.step() removed the channels, and does not fit "
                "the smaller model: the last moment is kept. To choose among all, leave pruner.step() to the session"
            )

    def state_dict(self) -> dict[str, Any]:
        """The pruner's state and what goes with it: tensors and plain values only; the trainer saves the model."""
        return session_state(self)

    def load_state_dict(self, state: Any) -> None:
        """Goes on where :meth:`state_dict` was taken, in a pruner that was built alike.

        Raises:
            TrainingStateError: For something else, or a damaged state.
            ConfigError: For the state of another model, or of other settings.
        """
        load_session_state(self, state)

    def _plan(self, total_steps: int | None) -> None:
        planned = self.pruner.total_steps
        if total_steps is None and planned is None:
            raise ConfigError(
                "the trainer does not know how many optimizer steps it will take: limit it (max_steps, max_epochs), or pass "
                "total_steps to the pruner"
            )
        if total_steps is not None and self.pruner.engine.step_index and total_steps != planned:
            raise ConfigError(
                f"the trainer will take {total_steps} optimizer steps, and the run that it goes on with was planned for "
                f"{planned}: resume with as many; to train the smaller model on, use a trainer without its callback"
            )
        if total_steps is not None and planned is not None and total_steps != planned:
            raise ConfigError(
                f"the trainer will take {total_steps} optimizer steps, but total_steps={planned}: leave total_steps out, "
                "the trainer's number is taken then"
            )
        if (
            not self._all_removed
        ):  # else it goes on from a checkpoint of after the removal, by the plan that came with it
            self.pruner.plan(total_steps if total_steps is not None else planned)

    def _check_place(self) -> None:
        mask = self.pruner.engine.weights.keep.device
        moved = next((p.device for p in self.pruner.model.parameters() if p.device != mask), None)
        if moved is not None:
            raise ConfigError(
                f"the model was on {mask} when the pruner was built and is on {moved} now: move it first, "
                f"model.to({str(moved)!r}), then build the pruner"
            )
        for (name, parameter), before in zip(self.pruner.model.named_parameters(), self._dtypes, strict=True):
            if parameter.dtype != before:
                raise ConfigError(
                    f"expected {name} in {before}, as the pruner was built on it, and the trainer has converted it to "
                    f'{parameter.dtype}: use 32-bit or mixed precision (Lightning\'s "bf16-mixed" or "16-mixed" in place '
                    'of a "…-true"), which leave the weights in float32'
                )

    def _evaluate(self) -> dict[str, float]:
        pruner = self.pruner
        assert self._validation is not None
        evaluation = evaluate(
            pruner.model, self._validation, pruner.lagrangian, split=VALIDATION, forward=self._forward
        )
        row = history_row(pruner.engine, evaluation, loss=self.loss_mean.value, last_round=pruner.rounds_left() <= 1)
        self.history.append(row)
        for hook in self.metrics if pruner.lagrangian.ranks.first else ():
            hook.on_evaluation(row)
        if row.at_target:
            self.snapshots.offer(pruner.model, pruner.engine.weights.keep, evaluation, pruner.engine.step_index)
        return row.scalars()


def session_of(callback: Any, pruner: Any, options: dict[str, Any]) -> Session:
    """The session of a trainer's callback, which hands its keyword arguments on.

    Raises:
        ConfigError: For an argument that there is not, in the callback's name; or as :class:`Session` does.
    """
    own, known = (
        [name for name, p in inspect.signature(kind).parameters.items() if p.kind is p.KEYWORD_ONLY]
        for kind in (type(callback), Session)
    )
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(
            f"{type(callback).__name__} has no argument {', '.join(unknown)}: beside the pruner it takes "
            f"{', '.join([*own, *known])}"
        )
    return Session(pruner, **options)


def _check_pruner(pruner: Any) -> None:
    if isinstance(pruner, type) or not hasattr(pruner, "regularize") or not hasattr(pruner, "engine"):
        raise ConfigError(f"expected a BiFPPruner of fairprune_plugin.torch_pruning, got {shown(pruner)}")
