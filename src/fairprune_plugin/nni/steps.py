"""What an evaluator calls in every training step: the Lagrangian, the alternation, and the masks after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import whole_number
from ..engine.bilevel import BiLevelEngine
from ..engine.loaders.batches import Forward
from ..engine.run.validation_stream import ValidationStream
from ..errors import ConfigError, TrainingStateError
from ..fairness.lagrangian import VALIDATION
from ..warn import warn_caller
from .capture import Field, LogitsHook, default_targets, field, forward_to_logits
from .evaluator_checks import steps_itself


@dataclass(frozen=True)
class Fields:
    """Where the constraint finds what it needs.

    Attributes:
        sensitive: ``batch → group ids``.
        targets: ``batch → labels``.
        logits: Output of the model → logits.
    """

    sensitive: Field | None = None
    targets: Field | None = None
    logits: Field | None = None


@dataclass(frozen=True)
class HeldOut:
    """Held-out data that move the multipliers.

    Attributes:
        loader: Batches of the same form as in training.
        every: Optimizer steps between two batches.
        forward: ``(model, inputs) → logits``; inputs are the first item of a batch, or all of a mapping. Default: the
            logits are taken from the model's output as in training.
    """

    loader: Iterable[Any]
    every: int = 2
    forward: Forward | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loader, Iterator) or not isinstance(self.loader, Iterable):
            raise ConfigError(
                f"expected validation as batches that can be walked again and again, such as a DataLoader or a list, got "
                f"{type(self.loader).__name__}"
            )
        whole_number("dual_every", self.every, 1, "optimizer steps")

    def stream(self, fields: Fields, default_window: int) -> ValidationStream:
        """Of batches ``(x, y, s)``."""
        return ValidationStream(
            Triples(self.loader, fields),
            window=len(self.loader) if isinstance(self.loader, Sized) else default_window,
            every=self.every,
            forward=self.forward or forward_to_logits(fields.logits),
        )


class Triples:
    """The batches of a loader as ``(x, y, s)``."""

    def __init__(self, loader: Iterable[Any], fields: Fields) -> None:
        self._loader, self._fields = loader, fields

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        device = torch.device("cpu")
        for batch in self._loader:
            inputs = batch if isinstance(batch, Mapping) else batch[0]
            targets = field(batch, self._fields.targets or default_targets, "targets", device)
            if self._fields.sensitive is None:
                yield inputs, targets, None
            else:
                yield inputs, targets, field(batch, self._fields.sensitive, "sensitive", device)


@contextmanager
def unbound_on_error(evaluator: Any) -> Iterator[None]:
    """Takes the model and all patches out of an evaluator when a run fails, which NNI leaves in it."""
    try:
        yield
    except BaseException:
        if getattr(evaluator, "model", None) is not None:
            evaluator.unbind_model()
        raise


class TrainingSteps:
    """The tasks of one run, between an evaluator and the engine.

    Args:
        engine: Of the run.
        model: The wrapped model.
        task: Where the user's loss is handed to the Lagrangian.
        fields: Of the batches.
        held_out: Data that move the multipliers; default: the running counts of the training batches.
        mask_moved: Called after each mask step.
        stepped: Called after each optimizer step.
    """

    def __init__(
        self,
        engine: BiLevelEngine,
        model: nn.Module,
        fields: Fields,
        held_out: HeldOut | None,
        *,
        mask_moved: Callable[[], None],
        stepped: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._model = model
        self._fields = fields
        self._mask_moved, self._stepped = mask_moved, stepped
        self._hook = LogitsHook(model, fields.logits)
        self._computed_loss = self._in_closure = self._used_gradients = False
        self._evaluator: Any = None
        self._warned = False
        self._every, self._stream = 1, None
        lagrangian = engine.lagrangian
        if held_out is not None and lagrangian.constraints:
            lagrangian.driver = VALIDATION
            self._every = held_out.every
            self._stream = held_out.stream(fields, lagrangian.config.window)

    def attach(self, evaluator: Any) -> None:
        """Patches a bound evaluator; NNI takes the patches back when it is unbound."""
        self._evaluator = evaluator
        if self._engine.lagrangian.constraints:
            evaluator.register_hooks([self._hook.hook])
        evaluator.patch_loss(self.loss)
        evaluator.patch_optimizer_step([self.before_step], [self.after_step])

    def loss(self, original_loss: Tensor, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The Lagrangian in place of the user's loss, which is its task loss."""
        if not torch.is_grad_enabled():
            return original_loss
        logits: Any = None
        targets: Any = None
        sensitive: Any = None
        if self._engine.lagrangian.constraints:
            assert self._fields.sensitive is not None
            logits = self._hook.take()
            targets = field(batch, self._fields.targets or default_targets, "targets", logits.device)
            sensitive = field(batch, self._fields.sensitive, "sensitive", logits.device)
        total = self._engine.loss(logits, targets, sensitive, task_loss=original_loss)
        self._computed_loss = True
        if self._in_closure and total.requires_grad:
            total.register_hook(self._queue_end_of_backward)  # type: ignore[no-untyped-call]
        return total

    def before_step(self) -> None:
        """Before ``optimizer.step()``: NNI's evaluators have the gradients by then, or compute them in a closure."""
        if self._computed_loss:
            self._use_gradients()
        else:  # optimizer.step(closure), as Lightning has it: loss and gradients are still to come
            self._in_closure = True

    def _queue_end_of_backward(self, gradient: Tensor) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(self._use_gradients)

    def _use_gradients(self) -> None:
        """Between the backward pass and the optimizer's update: one step of weights and mask.

        Warns:
            FairPruneWarning: Once, if this step of the optimizer has had one already.
        """
        if self._used_gradients and not self._warned:
            self._warned = True
            warn_caller(
                "backward() came several times within one optimizer.step(closure), and each counts as a step of the mask: "
                "give LBFGS max_iter=1, or accumulate gradients outside of the closure"
            )
        self._computed_loss, self._used_gradients = False, True
        if self._engine.after_backward():
            self._mask_moved()

    def after_step(self) -> None:
        """After ``optimizer.step()``.

        Raises:
            TrainingStateError: If no loss of ours has been computed for it, and none was left out on purpose.
        """
        if not self._used_gradients:
            if not steps_itself(self._evaluator):
                raise TrainingStateError(
                    "the optimizer stepped without a loss of this pruner: training_func must compute its loss with the "
                    "training_step that it is given as an argument (not with the function it was made from), then call "
                    "loss.backward() and optimizer.step()"
                )
            self._engine.pass_over()  # training_step returned None, Lightning's way of leaving a batch out
            self._mask_moved()
        self._in_closure = self._used_gradients = False
        self._engine.after_optimizer_step()
        if self._stream is not None and self._engine.step_index % self._every == 0:
            self._stream.dual_step(self._model, self._engine.lagrangian)
        self._stepped()
