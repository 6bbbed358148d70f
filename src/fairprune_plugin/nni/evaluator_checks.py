"""Evaluators that would train nothing, or not at all: seen before training instead of after it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import Any

from nni.common.serializer import is_traceable
from nni.compression.utils import Evaluator, LightningEvaluator, TransformersEvaluator
from nni.compression.utils import TorchEvaluator as HostTorchEvaluator
from torch import nn
from torch.optim import Optimizer

from ..errors import ConfigError


class TorchEvaluator(HostTorchEvaluator):  # type: ignore[misc]
    """NNI's ``TorchEvaluator``; mistakes with its optimizers are errors that say what to write instead.

    Args:
        training_func: ``(model, optimizers, training_step, lr_schedulers, max_steps, max_epochs)``: the loop.
        optimizers: Made by ``nni.trace(torch.optim.SGD)(model.parameters(), …)``; one or a list.
        training_step: ``(batch, model, …) → loss``, a tuple that starts with it, or a dict with ``"loss"``.
        **options: NNI's further arguments (``lr_schedulers``, ``dummy_input``, ``evaluating_func``).

    Raises:
        ConfigError: For optimizers or schedulers that ``nni.trace`` has not made.
    """

    def __init__(self, training_func: Any, optimizers: Any, training_step: Any, *args: Any, **options: Any) -> None:
        for optimizer in optimizers if isinstance(optimizers, list | tuple) else [optimizers]:
            if not isinstance(optimizer, Optimizer):
                raise ConfigError(f"expected a torch optimizer, got {type(optimizer).__name__}")
            check_traced(optimizer, "model.parameters(), …")
        schedulers = args[0] if args else options.get("lr_schedulers")
        for scheduler in schedulers if isinstance(schedulers, list | tuple) else [schedulers]:
            if scheduler is not None:
                check_traced(scheduler, "optimizer, …")
        super().__init__(training_func, optimizers, training_step, *args, **options)


def check_traced(made: Any, arguments: str) -> None:
    """Refuses an optimizer or scheduler that NNI could not build again for the wrapped model."""
    if not is_traceable(made):
        kind = type(made)
        raise ConfigError(
            f"the {kind.__name__} was not made by nni.trace, so that NNI cannot build it again for the wrapped model: "
            f"write nni.trace({kind.__module__.split('.')[0]}…{kind.__name__})({arguments})"
        )


def check_evaluator(evaluator: Any, model: nn.Module) -> None:
    """An evaluator that trains this model.

    Raises:
        ConfigError: If it is none, cannot train with the trainer installed, its optimizers are not traced, they hold
            none of the model's parameters, or the model steps them itself (Lightning's manual optimization).
    """
    if not isinstance(evaluator, Evaluator):
        raise ConfigError(
            f"expected an NNI evaluator (TorchEvaluator, LightningEvaluator, TransformersEvaluator), got "
            f"{type(evaluator).__name__}: BiFP learns its mask while it trains"
        )
    _check_trainer(evaluator, LightningEvaluator, 2, "pytorch_lightning", "lightning")
    _check_trainer(evaluator, TransformersEvaluator, 5, "transformers")
    if isinstance(evaluator, LightningEvaluator) and not getattr(model, "automatic_optimization", True):
        raise ConfigError(
            "the LightningModule has automatic_optimization = False: its training_step steps the optimizer before it "
            "returns the loss, to which this pruner adds its own part; let Lightning step (automatic_optimization = True)"
        )
    if not evaluator._initialization_complete:
        for optimizer in _optimizers_before(evaluator):
            check_traced(optimizer, "model.parameters(), …")
            _check_parameters(optimizer)
        evaluator._init_optimizer_helpers(model)
    helpers = getattr(evaluator, "_optimizer_helpers", None) or []
    for helper in helpers:
        groups = helper.kwargs.get("params") or (helper.args[0] if helper.args else [])
        if not any(group["params"] for group in groups):
            raise ConfigError(
                "the evaluator's optimizer holds no parameter of this model, so that nothing would be trained: make "
                "it from model.parameters() of the model that is pruned"
            )


def steps_itself(evaluator: Any) -> bool:
    """Whether the evaluator's trainer, and no function of the user's, takes the loss and steps the optimizer."""
    return isinstance(evaluator, LightningEvaluator) and bool(getattr(evaluator.model, "automatic_optimization", True))


def _check_trainer(evaluator: Any, cls: Any, first_broken: int, *packages: str) -> None:
    """NNI's own ``train`` of a trainer evaluator, with a trainer too new for it, fails after the model is wrapped."""
    if not isinstance(evaluator, cls) or type(evaluator).train.__module__ != cls.__module__:
        return
    for package in packages:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if int(version.partition(".")[0]) >= first_broken:
            raise ConfigError(
                f"NNI's {cls.__name__} does not train with {package} {version}: build, train and unwrap the pruner inside "
                "'with patched_evaluators():', from fairprune_plugin.nni.evaluators"
            )


def _optimizers_before(evaluator: Any) -> Iterable[Any]:
    if isinstance(evaluator, LightningEvaluator):
        return []  # configure_optimizers() makes them; NNI asserts that they are traced
    return getattr(evaluator, "_tmp_optimizers", None) or []


def _check_parameters(optimizer: Any) -> None:
    """``named_parameters()`` is accepted by torch, and NNI finds none of the pairs in the model."""
    given = optimizer.trace_kwargs.get("params", next(iter(optimizer.trace_args), ()))
    given = list(given)
    inner = given[0].get("params", ()) if given and isinstance(given[0], dict) else given
    first = next(iter(inner), None) if not hasattr(inner, "shape") else None
    if isinstance(first, tuple):
        raise ConfigError(
            "the optimizer was made from named_parameters(): NNI would train nothing without a word; make it from "
            "model.parameters()"
        )
