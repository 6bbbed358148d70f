"""Settings of an optimizer and of its schedulers, as a run found them: with other ones it is another run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

# How something is computed, where a run stands, and names: not what is computed.
NOT_COMPARED = (
    *("params", "param_names", "foreach", "fused", "capturable", "differentiable", "train_mode"),
    *("last_epoch", "verbose"),
)
_OTHER = object()

# Both move their settings as they go, and a call of fit that goes on in the same process is given those of the first call.
_FOUND: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def hyper_parameters(optimizer: Any, lr_scheduler: Any) -> dict[str, Any]:
    """Plain values by name, as they were when this optimizer and this scheduler were first seen here.

    Args:
        optimizer: Whose groups have them.
        lr_scheduler: One of torch's, maybe made of others; of something else nothing is known.
    """
    out = dict(_first_found(optimizer, _of_groups(optimizer.param_groups), "optimizer"))
    for number, scheduler in enumerate(with_its_own(lr_scheduler)):
        if isinstance(scheduler, LRScheduler):
            whose = f"part {number} of the lr_scheduler" if number else "lr_scheduler"
            out |= _first_found(scheduler, _of_scheduler(scheduler), whose)
    return out


def with_its_own(scheduler: Any) -> Iterator[Any]:
    """A scheduler and those that it puts together, however deep."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from with_its_own(part)


def _first_found(owner: Any, now: dict[str, Any], whose: str) -> dict[str, Any]:
    found = _FOUND.setdefault(owner, now)
    the = whose if whose.startswith("part") else f"the {whose}"
    return {f"{key} of {the}": value for key, value in found.items()}


def _of_groups(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """One value, or a list of one for each group."""
    out: dict[str, Any] = {}
    for key in dict.fromkeys(key for group in groups for key in group if key not in NOT_COMPARED):
        values = [_plain(group.get(key)) for group in groups]
        if _OTHER not in values:
            out[key] = values if len(values) > 1 else values[0]
    return out


def _of_scheduler(scheduler: LRScheduler) -> dict[str, Any]:
    """Its numbers, flags and names; lists of learning rates follow from the optimizer."""
    values = {k: _plain(v) for k, v in vars(scheduler).items() if not k.startswith("_") and k not in NOT_COMPARED}
    return {key: value for key, value in values.items() if value is not _OTHER and not isinstance(value, tuple)}


def _plain(value: Any) -> Any:
    """A value that a checkpoint can hold and that can be compared."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else _OTHER
    if isinstance(value, list | tuple):
        parts = tuple(_plain(part) for part in value)
        return _OTHER if _OTHER in parts else parts
    if isinstance(value, float):
        return float(value)  # NumPy's is one
    return value if value is None or isinstance(value, bool | int | str) else _OTHER
