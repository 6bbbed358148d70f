"""What NNI 3.0's ``TransformersEvaluator`` needs to train with transformers 5."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from types import MethodType, ModuleType
from typing import Any

from .patching import Replacement

_logger = logging.getLogger(__name__)
Task = Callable[[], Any]


def replacements(evaluators: ModuleType) -> list[Replacement]:
    """For ``nni.compression.utils.evaluator``; none if transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return []
    evaluator = evaluators.TransformersEvaluator
    initialise = vars(evaluator)["_init_optimizer_helpers"]
    return [
        Replacement(evaluator, "_init_optimizer_helpers", _tracing_the_default_optimizer(initialise)),
        Replacement(evaluator, "patch_loss", patch_loss),
        Replacement(evaluator, "patch_optimizer_step", patch_optimizer_step),
        Replacement(evaluator, "revert_optimizer_step", revert_optimizer_step),
        Replacement(evaluator, "train", train),
    ]


def _tracing_the_default_optimizer(initialise: Callable[..., None]) -> Callable[..., None]:
    """Without a traced optimizer the trainer's own default is traced, on this trainer alone.

    NNI replaces the static method ``Trainer.get_optimizer_cls_and_kwargs`` of the class by a function of one
    argument (transformers 5 passes two) and puts a plain function back, which breaks every later trainer.
    """

    @functools.wraps(initialise)
    def _init_optimizer_helpers(self: Any, pure_model: Any) -> None:
        nni = importlib.import_module("nni")
        trainer = self.traced_trainer
        if trainer.optimizer is not None and nni.common.is_traceable(trainer.optimizer):
            initialise(self, pure_model)
            return
        if trainer.optimizer is not None:
            _logger.warning(
                "the trainer's optimizer is not traced, so the trainer's default takes its place; to keep yours, build it "
                "with nni.trace, for example nni.trace(torch.optim.AdamW)(model.parameters())"
            )
        trainer.optimizer = None
        given = trainer.optimizer_cls_and_kwargs
        cls, kwargs = given or trainer.get_optimizer_cls_and_kwargs(trainer.args, pure_model)
        trainer.optimizer_cls_and_kwargs = (nni.trace(cls), dict(kwargs))
        try:
            trainer.create_optimizer()
            initialise(self, pure_model)
        finally:
            trainer.optimizer_cls_and_kwargs = given
            trainer.optimizer = None

    return _init_optimizer_helpers


def patch_loss(self: Any, patch: Callable[[Any, Any], Any]) -> None:
    """As NNI's, with the arguments that ``compute_loss`` has gained (``num_items_in_batch``).

    The patch gets the batch as it was before ``compute_loss``, which takes the labels out of it in some settings; a
    trainer's own ``compute_loss`` may likewise take out what the model does not accept, such as group ids.

    With gradient accumulation a loss that was normalised by the items of the whole step is not divided by the
    number of micro-batches any more, and what a patch adds would count once per micro-batch. The patch sees the loss
    on the scale of a single batch, and the sum is scaled back.
    """
    compute = self.trainer.compute_loss

    @functools.wraps(compute)
    def compute_loss(
        trainer: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        batch = copy.copy(inputs)
        result = compute(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        parts = _undivided_parts(trainer, num_items_in_batch) if model.training else 1
        if return_outputs:
            return patch(result[0] * parts, batch) / parts, result[1]
        return patch(result * parts, batch) / parts

    self.trainer.compute_loss = MethodType(compute_loss, self.trainer)


def _undivided_parts(trainer: Any, items: Any) -> int:
    """Micro-batches that share one step and that ``Trainer.training_step`` will not average itself."""
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        scaled = (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None
    return int(trainer.current_gradient_accumulation_steps) if scaled else 1


def patch_optimizer_step(self: Any, before_step_tasks: Sequence[Task], after_step_tasks: Sequence[Task]) -> None:
    """Runs the tasks around the update through a callback of this evaluator's own trainer.

    NNI writes them into a class that all evaluators share: the last call wins, so ``MovementPruner``'s scores are
    never updated and two evaluators run each other's tasks. The order for several calls is that of nested wrappers,
    as with NNI's other evaluators: the latest ``before`` first, the latest ``after`` last.
    """
    callback = _step_tasks(self.trainer)
    if callback is None:
        callback = _callback_class()()
        self.trainer.add_callback(callback)
    callback.before[:0] = before_step_tasks
    callback.after.extend(after_step_tasks)


def revert_optimizer_step(self: Any) -> None:
    """Takes the callback away again."""
    callback = _step_tasks(self.trainer)
    if callback is not None:
        self.trainer.remove_callback(callback)


def train(self: Any, max_steps: int | None = None, max_epochs: int | None = None) -> None:
    """Trains for exactly this long; with neither, as long as the trainer was built for.

    NNI sets ``num_train_epochs`` alone for ``max_epochs``, which the trainer ignores if the user had set
    ``max_steps``.
    """
    trainer, arguments = self.trainer, self.trainer.args
    before = arguments.max_steps, arguments.num_train_epochs
    if max_steps is not None or max_epochs is not None:
        arguments.max_steps = max_steps if max_steps is not None else -1
        arguments.num_train_epochs = max_epochs if max_epochs is not None else before[1]
    helper = self._lr_scheduler_helper
    trainer.lr_scheduler = helper.call(trainer.optimizer) if helper else None
    try:
        trainer.train()
    finally:
        trainer.lr_scheduler = None
        arguments.max_steps, arguments.num_train_epochs = before


def _step_tasks(trainer: Any) -> Any:
    """The callback with this trainer's tasks, or ``None``."""
    cls = _callback_class()
    return next((item for item in trainer.callback_handler.callbacks if isinstance(item, cls)), None)


@functools.cache
def _callback_class() -> Any:
    base: Any = importlib.import_module("transformers").TrainerCallback

    class StepTasks(base):  # type: ignore[misc]
        """A compressor's tasks before and after each update; micro-batches of one step count as one."""

        def __init__(self) -> None:
            self.before: list[Task] = []
            self.after: list[Task] = []

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            for task in self.before:
                task()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            for task in self.after:
                task()

    return StepTasks
