"""What ``fit`` was given, looked at before any training: loaders, optimizer, scheduler and the length of the run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ...checks import function, one_of, shown, whole_number
from ...errors import ConfigError, DataError
from ...fairness.lagrangian import TRAIN, VALIDATION
from ...warn import warn_caller
from ..loaders.batches import check_iterable
from ..optimizers import refuse_replaced
from ..results.snapshots import AUTO, SELECTIONS
from .options import FitOptions

BOTH = "both"
FOLDS = "folds"
DRIVERS = (VALIDATION, BOTH, TRAIN, FOLDS)


def check_options(options: FitOptions) -> None:
    """Refuses settings of ``fit`` that mean nothing.

    Raises:
        ConfigError: Saying which.
    """
    for name in ("validate_every", "dual_every", "checkpoint_every"):
        value = getattr(options, name)
        if value is not None:
            whole_number(name, value, 1, "steps")
    whole_number("recalibration_batches", options.recalibration_batches, 0)
    one_of("select_by", options.select_by, SELECTIONS)
    function("forward", options.forward, "(model, x) → logits")
    function("wrap", options.wrap, "model → its data-parallel wrapper")
    function("on_evaluation", options.on_evaluation, "history row → None")
    if options.checkpoint_every is not None and options.checkpoint_dir is None:
        raise ConfigError(
            f"checkpoint_every={options.checkpoint_every} has no effect without checkpoint_dir: say where checkpoints go"
        )


def driver_of(options: FitOptions, validation: Iterable[Any] | None) -> str:
    """Which data move the multipliers.

    Raises:
        ConfigError: For an unknown name, or one that needs a validation loader when there is none.
    """
    driver = options.driver or (VALIDATION if validation is not None else TRAIN)
    if not isinstance(driver, str) or driver not in DRIVERS or (driver in (VALIDATION, BOTH) and validation is None):
        raise ConfigError(
            f"expected the multipliers' driver as one of {', '.join(DRIVERS)}, the first two with a validation loader "
            f"only; got {driver!r} {'without' if validation is None else 'with'} one"
        )
    return driver


def check_walkable(loader: Iterable[Any] | None, name: str) -> None:
    """Refuses what cannot be walked more than once, before training does it.

    Raises:
        DataError: For a generator or an empty loader, or something that cannot be walked at all.
    """
    if loader is not None:
        check_iterable(loader, name)
    if loader is not None and (isinstance(loader, Iterator) or length(loader) == 0):
        raise DataError(
            f"the {name} loader is empty or a generator: pass something that can be iterated again and again, such as "
            "a DataLoader or a list of batches, not a generator"
        )


def check_held_out(train: Iterable[Any], validation: Iterable[Any] | None, options: FitOptions) -> None:
    """Warns of validation data that training sees, and refuses settings that have an effect with validation alone.

    Raises:
        ConfigError: For a way to choose the moment, or a function to call, without validation data.
    """
    if validation is None:
        given = {"select_by": options.select_by != AUTO, "on_evaluation": options.on_evaluation is not None}
        for name in (name for name, is_given in given.items() if is_given):
            raise ConfigError(
                f"{name} has no effect without validation data, as then the last model is returned and nothing is evaluated "
                "on the way: pass validation=…, or leave it out"
            )
    elif validation is train or (_walks_all(train) is not None and _walks_all(train) is _walks_all(validation)):
        warn_caller(
            "validation has the training data: multipliers and the choice of the moment follow rates that look better than "
            "they are on new data; hold a part of the data out, or leave validation out and pass driver='folds'"
        )


def _walks_all(loader: Iterable[Any]) -> Any:
    """The data set of a loader that leaves none of it out, as far as that can be seen; or ``None``."""
    sampler = getattr(loader, "sampler", None)
    whole = isinstance(sampler, torch.utils.data.SequentialSampler | torch.utils.data.RandomSampler)
    return getattr(loader, "dataset", None) if whole else None


def check_optimizer(optimizer: torch.optim.Optimizer, lr_scheduler: Any, model: nn.Module) -> None:
    """Refuses an optimizer of another model or one whose step needs a closure, and a scheduler that cannot be stepped
    without a metric; warns of parameters that no group of the optimizer holds.

    Raises:
        ConfigError: Saying which.
        StaleOptimizerError: If the model has become smaller since.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(f"expected a torch optimizer of model.parameters(), got {shown(optimizer)}")
    refuse_replaced(optimizer)
    # By the class: schedulers put a method of theirs in front of it.
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"{type(optimizer).__name__} computes the loss itself, in a closure that fit() does not have: pass another "
            "optimizer, such as torch.optim.AdamW; LBFGS with max_iter=1 goes in a loop of your own"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(parameter) in held for parameter in model.parameters()):
        raise ConfigError(
            "the optimizer holds none of this model's parameters, so nothing would be trained: build it from "
            "model.parameters() of the model that was passed to the pruner"
        )
    left_out = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if left_out:
        warn_caller(
            f"{len(left_out)} trainable parameters (first: {left_out[0]}) are in no group of the optimizer: they are not "
            "trained; build it from model.parameters(), or freeze them (requires_grad_(False)) before the pruner is built",
        )
    if isinstance(lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(
            "fit() steps the scheduler once per training step and has no metric for ReduceLROnPlateau: pass a "
            "schedule over steps, such as CosineAnnealingLR(optimizer, total_steps)"
        )
    if lr_scheduler is not None and not callable(getattr(lr_scheduler, "step", None)):
        raise ConfigError(f"expected lr_scheduler with a method step(), got {shown(lr_scheduler)}")
    moved = getattr(lr_scheduler, "optimizer", optimizer)
    if isinstance(moved, torch.optim.Optimizer) and moved is not optimizer:
        raise ConfigError(
            "the lr_scheduler moves the learning rates of another optimizer than the one given to fit(): build it from that "
            "one"
        )


def check_schedule(lr_scheduler: Any, steps: int) -> None:
    """Refuses a schedule that ends before the training does, which would break it off.

    Raises:
        ConfigError: With both lengths.
    """
    length, done = (getattr(lr_scheduler, name, None) for name in ("total_steps", "last_epoch"))
    if isinstance(length, int) and isinstance(done, int) and length - done < steps:
        raise ConfigError(
            f"fit() steps the scheduler once per training step, {steps} times, and this {type(lr_scheduler).__name__} has "
            f"{length - done} of {length} steps left: build it with total_steps={steps}"
        )


def planned_steps(total_steps: int | None, epochs: int | None, train: Iterable[Any]) -> int:
    """Number of training steps, from whichever was given.

    Raises:
        ConfigError: If neither was, if both disagree, or if a loader without a length is to give epochs.
    """
    if epochs is None:
        if total_steps is None:
            raise ConfigError("how long to train is unknown: pass epochs to fit() or total_steps to the pruner")
        return total_steps
    epochs = whole_number("epochs", epochs, 1)
    batches = length(train)
    if batches is None:
        raise ConfigError("the training loader has no length: pass total_steps to the pruner instead of epochs")
    steps = epochs * batches
    if total_steps is not None and total_steps != steps:
        raise ConfigError(
            f"epochs={epochs} of {batches} batches are {steps} steps, but total_steps={total_steps}: give one of them"
        )
    return steps


def length(loader: Iterable[Any]) -> int | None:
    """Number of batches, if the loader knows it."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None
