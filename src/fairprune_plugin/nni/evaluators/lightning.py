"""What NNI 3.0's ``LightningEvaluator`` needs to train with Lightning 2."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

from .patching import Replacement

NAMESPACES = ("lightning.pytorch", "pytorch_lightning")  # one library under two names, with distinct classes
Task = Callable[[], Any]


def replacements(evaluators: ModuleType) -> list[Replacement]:
    """For ``nni.compression.utils.evaluator``; none if Lightning is not installed."""
    libraries = [importlib.import_module(name) for name in NAMESPACES if _installed(name)]
    if not libraries:
        return []
    evaluator = evaluators.LightningEvaluator
    initialise = vars(evaluator)["_init_optimizer_helpers"]
    return [
        Replacement(evaluators, "pl", _either(libraries)),
        Replacement(evaluators, "LIGHTNING_INSTALLED", True),
        Replacement(evaluator, "_init_optimizer_helpers", _accepting_bare_schedulers(initialise)),
        Replacement(evaluator, "train", train),
        Replacement(evaluator, "patch_loss", patch_loss),
        Replacement(evaluator, "patch_optimizer_step", patch_optimizer_step),
    ]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None


def _either(libraries: Sequence[ModuleType]) -> SimpleNamespace:
    """Stands for ``pl`` in NNI's ``isinstance`` checks, which know ``pytorch_lightning`` only."""
    names = ("Trainer", "LightningModule", "LightningDataModule")
    return SimpleNamespace(**{name: tuple(getattr(library, name) for library in libraries) for name in names})


def _accepting_bare_schedulers(initialise: Callable[..., None]) -> Callable[..., None]:
    """NNI reads ``["lr_scheduler"]["scheduler"]``; Lightning also allows the scheduler itself in its place."""

    @functools.wraps(initialise)
    def _init_optimizer_helpers(self: Any, pure_model: Any) -> None:
        configure = pure_model.configure_optimizers
        own = vars(pure_model).get("configure_optimizers")

        def configure_optimizers() -> Any:
            configured = configure()
            for item in configured if isinstance(configured, list | tuple) else [configured]:
                if isinstance(item, dict) and hasattr(item.get("lr_scheduler"), "step"):
                    item["lr_scheduler"] = {"scheduler": item["lr_scheduler"]}
            return configured

        pure_model.configure_optimizers = configure_optimizers
        try:
            initialise(self, pure_model)
        finally:
            if own is None:
                del pure_model.configure_optimizers
            else:
                pure_model.configure_optimizers = own

    return _init_optimizer_helpers


def train(self: Any, max_steps: int | None = None, max_epochs: int | None = None) -> None:
    """Trains a fresh copy of the trainer for exactly this long; with neither, as long as the trainer was built for.

    NNI writes ``trainer.fit_loop.max_steps``, which has no setter in Lightning 2. It also leaves the other limit
    as the user set it, so that ``Trainer(max_epochs=1)`` silently ends a compression of many steps.
    """
    trainer = self.trainer.trace_copy().get()
    trainer.num_sanity_val_steps = 0  # a dry run would reach the compressor's hooks
    if max_steps or max_epochs:
        trainer.fit_loop.epoch_loop.max_steps = max_steps or -1
        trainer.fit_loop.max_epochs = max_epochs or -1
    try:
        trainer.fit(self.model, self.data_module)
    finally:
        self.model.trainer = None  # as NNI does: a model is saved without its trainer


def patch_loss(self: Any, patch: Callable[[Any, Any], Any]) -> None:
    """As NNI's, for every ``training_step`` that Lightning 2 accepts.

    Lightning reads the signature to know whether ``batch_idx`` is wanted, and a step may return ``None`` to skip a batch.
    """
    step = self.model.training_step

    @functools.wraps(step)
    def training_step(_: Any, *args: Any, **kwargs: Any) -> Any:
        output = step(*args, **kwargs)
        batch = args[0] if args else kwargs["batch"]
        if isinstance(output, Mapping):
            return {**output, "loss": patch(output["loss"], batch)}
        return None if output is None else patch(output, batch)

    training_step.__wrapped__ = inspect.unwrap(step)  # Lightning looks through one layer only
    self.model.training_step = MethodType(training_step, self.model)


def patch_optimizer_step(self: Any, before_step_tasks: Sequence[Task], after_step_tasks: Sequence[Task]) -> None:
    """Runs the tasks around the first optimizer's update, the first ones after the backward pass.

    Lightning computes loss and gradient in a closure *inside* ``optimizer.step``. NNI calls the tasks before
    ``step``, so before the gradient; with every other evaluator they see the gradient of this step. Here they run
    between the closure (and Lightning's clipping) and the update.
    """
    configure = self.model.configure_optimizers

    def configure_optimizers(_: Any) -> Any:
        configured = configure()
        optimizer = _first_optimizer(configured)
        optimizer.step = MethodType(_around(optimizer.step, before_step_tasks, after_step_tasks), optimizer)
        return configured

    self.model.configure_optimizers = MethodType(configure_optimizers, self.model)


def _first_optimizer(configured: Any) -> Any:
    """From what NNI's patched ``configure_optimizers`` returns: optimizers, both lists, or dictionaries."""
    first = configured[0]
    if isinstance(first, dict):
        return first["optimizer"]
    return first[0] if isinstance(first, list | tuple) else first


def _around(step: Callable[..., Any], before: Sequence[Task], after: Sequence[Task]) -> Callable[..., Any]:
    @functools.wraps(step)  # with its attributes: a learning-rate scheduler has left its mark there
    def patched_step(_: Any, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        if closure is None:
            _run(before)
            output = step(**kwargs)
        else:
            output = step(closure=_followed_by(closure, before), **kwargs)
        _run(after)
        return output

    return patched_step


def _followed_by(closure: Callable[[], Any], tasks: Sequence[Task]) -> Callable[[], Any]:
    """The tasks belong to the step: an optimizer that calls its closure again (LBFGS) does not repeat them."""
    waiting = list(tasks)

    def closure_and_tasks() -> Any:
        result = closure()
        _run(waiting)
        waiting.clear()
        return result

    return closure_and_tasks


def _run(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()
