"""Loss scaling (float16 under ``torch.amp.GradScaler``): the mask's derivative needs the gradients' true size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import shown
from ..errors import ConfigError, TrainingStateError
from .trained_model import TrainedModel

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]


def unscale(scaler: Any, optimizer: Optimizers | None, model: nn.Module) -> bool:
    """Divides the gradients by the scaler's factor, unless the user has done so already in this step.

    Args:
        scaler: A ``torch.amp.GradScaler``.
        optimizer: The optimizer, or all of several ones, of the model's parameters.
        model: Whose gradients they are.

    Returns:
        Whether they were scaled at all (a scaler can be switched off).

    Raises:
        ConfigError: Without the optimizer, or if some parameter with a gradient is in none of them.
        TrainingStateError: If the loss was not scaled, or the optimizer has stepped already.
    """
    if optimizer is None:
        raise ConfigError("regularize(model, scaler=…) needs the optimizer too, to unscale its gradients: optimizer=…")
    if not hasattr(scaler, "unscale_") or not hasattr(scaler, "is_enabled"):
        raise ConfigError(f"expected scaler as a torch.amp.GradScaler, got {shown(scaler)}")
    optimizers: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    for one in optimizers:
        if not hasattr(one, "param_groups"):
            raise ConfigError(f"expected optimizer as a torch.optim.Optimizer, or a list of several, got {shown(one)}")
    if not scaler.is_enabled():
        return False
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    left = [name for name, p in model.named_parameters() if p.grad is not None and id(p) not in held]
    if left:
        raise ConfigError(
            f"{len(left)} parameters with a gradient ({left[0]}, …) are in none of the optimizers given, so that their "
            "gradients would stay scaled: pass all of them, regularize(model, scaler=scaler, optimizer=[first, second]); "
            "parameters that nobody trains take requires_grad_(False), before the pruner is built"
        )
    for one in optimizers:
        _unscale_one(scaler, one)
    return True


def _unscale_one(scaler: Any, optimizer: torch.optim.Optimizer) -> None:
    try:
        scaler.unscale_(optimizer)
    except AssertionError as error:
        raise TrainingStateError(
            "the scaler has not scaled a loss yet: call scaler.scale(loss).backward() before regularize(…, scaler=scaler)"
        ) from error
    except RuntimeError as error:
        if "already been called" not in str(error):
            raise TrainingStateError(
                f"the scaler cannot unscale these gradients ({error}): the order is scaler.scale(loss).backward(), "
                "pruner.regularize(model, scaler=scaler, optimizer=optimizer), scaler.step(optimizer), scaler.update()"
            ) from error


class ForgottenScale:
    """Notices gradients that were still scaled when the pruner saw them.

    A scaler that was not told to unscale before divides within ``scaler.step``; so once, at the first step that moves
    weights, gradients are compared before and after the optimizer's step.
    """

    TRIES = 4  # steps in which the compared gradient may be zero

    def __init__(self) -> None:
        self._tries = 0
        self._factor: Tensor | None = None
        self._seen: tuple[nn.Parameter, Tensor] | None = None

    def backward_from(self, gradient: Tensor) -> None:
        """Takes the gradient of what ``backward()`` was called on with respect to the loss, a scalar."""
        if self._tries < self.TRIES:
            self._factor = gradient.detach()

    def before_step(self, trained: TrainedModel, *, unscaled: bool) -> None:
        """Takes the gradients as the pruner leaves them."""
        if unscaled:
            self._tries = self.TRIES
        if self._tries < self.TRIES:
            first = next((p for p in trained.parameters if p.grad is not None), None)
            self._seen = None if first is None or first.grad is None else (first, trained.norm(first.grad))

    def after_step(self, trained: TrainedModel) -> None:
        """Compares.

        Raises:
            TrainingStateError: If the gradients have become smaller by just the factor of the loss.
        """
        if self._seen is None or self._factor is None:
            return
        parameter, before = self._seen
        self._seen = None
        self._tries += 1
        if parameter.grad is None:
            return
        after, norm, factor = float(trained.norm(parameter.grad)), float(before), float(self._factor)
        if after == 0:
            return
        self._tries = self.TRIES
        if factor > 1 and math.isclose(norm, after * factor, rel_tol=1e-3):
            raise TrainingStateError(
                f"the gradients were still scaled by {factor:g} when regularize() saw them, and the mask's scores are "
                "quadratic in them: call regularize(model, scaler=scaler, optimizer=optimizer), or "
                "scaler.unscale_(optimizer) before it; start this run again"
            )
