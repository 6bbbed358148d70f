"""Schedule-free optimizers inside of ``fit``: they train at one point and are judged at another, their average.

Source: Defazio et al., "The Road Less Scheduled" (2024), and the interface of the package ``schedulefree``: ``train()`` puts
the training point y into the parameters, ``eval()`` the average x, and ``train_mode`` in the groups says which it is. Both
are computed from a third sequence that knows no mask, so that hidden weights come back with every exchange.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim import Optimizer

from ...errors import ConfigError
from ...masks.masked_weights import MaskedWeights


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether an optimizer exchanges the parameters by ``train()`` and ``eval()``."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def check_schedule_free(optimizer: Optimizer) -> None:
    """Refuses an optimizer that does so in a way that is not known.

    Raises:
        ConfigError: If nothing says where it is.
    """
    if is_schedule_free(optimizer) and not all("train_mode" in group for group in optimizer.param_groups):
        raise ConfigError(
            f"{type(optimizer).__name__} has train() and eval(), but no 'train_mode' in its groups that says which it is "
            "in: fit() takes such optimizers as AdamWScheduleFree and SGDScheduleFree; with another one call "
            "pruner.apply_mask() after each train() and eval() in a loop of your own"
        )


def refuse_schedule_free(optimizer: Optimizer) -> None:
    """For a loop of somebody else's.

    Raises:
        ConfigError: Nobody knows when it exchanges the weights.
    """
    if is_schedule_free(optimizer):
        raise ConfigError(
            f"{type(optimizer).__name__} exchanges the weights by train() and eval(), at which hidden ones come back: "
            "inside of a trainer nobody hides them again; use pruner.fit(…), or another optimizer"
        )


def to_training_point(optimizer: Optimizer, weights: MaskedWeights) -> None:
    """Before the first step; hidden weights stay zero. Nothing for other optimizers, or if it is there."""
    if is_schedule_free(optimizer) and not _training(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
        weights.reapply()


@torch.no_grad()
def begin_hidden(optimizer: Optimizer, weights: MaskedWeights) -> None:
    """After the very first step, in which the third sequence has begun at the weights it found: those that were hidden by
    then, zeros, begin at what they left with. Nothing for other optimizers."""
    if not is_schedule_free(optimizer):
        return
    for masked in weights.parameters:
        begun, live = optimizer.state.get(masked.parameter, {}).get("z"), masked.parameter
        if begun is not None:
            begun.copy_(torch.where(live == 0, masked.full_values(), begun))


def to_average(optimizer: Optimizer, weights: MaskedWeights) -> None:
    """For good, after the last step: what is judged and kept is the average."""
    if is_schedule_free(optimizer) and _training(optimizer):
        optimizer.eval()  # type: ignore[attr-defined]
        weights.reapply()


@contextmanager
def averaged(optimizer: Optimizer, weights: MaskedWeights) -> Iterator[None]:
    """Inside, the model has the average, under the mask; afterwards the training point to the last bit, so that nothing
    depends on how often somebody looked."""
    if not is_schedule_free(optimizer) or not _training(optimizer):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    points = [p.detach().clone() for p in parameters]
    to_average(optimizer, weights)
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, point in zip(parameters, points, strict=True):
                parameter.copy_(point)


def _training(optimizer: Optimizer) -> bool:
    return all(group["train_mode"] for group in optimizer.param_groups)
