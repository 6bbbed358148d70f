"""One batch of a user's loader: inputs, targets and sensitive attribute, on the model's device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...checks import shown
from ...errors import DataError

Forward = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Batch:
    """Inputs (anything the forward function takes), targets ``(N,)`` or ``(N, L)``, and the sensitive attribute: group
    ids ``(N,)`` or ``(N, A)``, a mapping of ``(N,)`` ones, or ``None``."""

    inputs: Any
    targets: Tensor
    sensitive: Any


TARGET_KEYS = ("y", "labels", "label", "targets", "target")
SENSITIVE_KEYS = ("s", "sensitive", "sensitive_attribute", "sensitive_features")
INPUT_KEYS = ("x", "inputs", "input", "image", "images")


def check_iterable(loader: Any, name: str) -> None:
    """Refuses what cannot be walked at all.

    Raises:
        DataError: For a data set's path, a number, ``None`` …
    """
    if isinstance(loader, str | bytes | Mapping) or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise DataError(
            f"expected the {name} loader as something that yields batches (x, y, s), such as a DataLoader or a list of "
            f"batches, got {shown(loader)}"
        )


def read_batch(raw: Any, model: nn.Module) -> Batch:
    """Takes ``(x, y, s)`` or ``(x, y)`` apart, or a mapping by its customary keys, and moves it to where the model is.

    In a mapping, what is neither target nor sensitive attribute is the input: a field of :data:`INPUT_KEYS` that is alone,
    else all remaining fields together.

    Raises:
        DataError: If the loader yields something else, such as single samples, or a mapping without a target; the field is
            named.
    """
    device = next(model.parameters()).device
    if isinstance(raw, Mapping):
        return _from_mapping(_move(raw, device))
    if not isinstance(raw, tuple | list) or len(raw) not in (2, 3):
        what = f"{len(raw)} items" if isinstance(raw, tuple | list) else type(raw).__name__
        raise DataError(f"expected batches (x, y, s): inputs, targets, sensitive attribute; the loader yields {what}")
    inputs, targets, *rest = (_move(part, device) for part in raw)
    _refuse_single_sample(targets)
    return Batch(inputs, targets, rest[0] if rest else None)


def _from_mapping(raw: dict[str, Any]) -> Batch:
    target = next((key for key in TARGET_KEYS if key in raw), None)
    sensitive = next((key for key in SENSITIVE_KEYS if key in raw), None)
    rest = {key: value for key, value in raw.items() if key not in (target, sensitive)}
    one = next((key for key in INPUT_KEYS if [*rest] == [key]), None)
    there = ", ".join(repr(key) for key in raw) or "nothing"
    if target is None:
        raise DataError(
            f"expected a target in the batch, under one of {', '.join(TARGET_KEYS)}; the loader's dict has {there}: "
            "rename the field, or yield (x, y, s)"
        )
    if not rest:
        raise DataError(f"expected inputs beside {target!r} in the batch; the loader's dict has {there} only")
    _refuse_single_sample(raw[target])
    return Batch(rest if one is None else rest[one], raw[target], None if sensitive is None else raw[sensitive])


def _refuse_single_sample(targets: Any) -> None:
    if isinstance(targets, int | float) or (isinstance(targets, Tensor) and targets.dim() == 0):
        raise DataError(
            "expected batches (x, y, s), with a target for each of several samples, and got a single sample: wrap the data "
            "set in a DataLoader, such as DataLoader(dataset, batch_size=64, shuffle=True)"
        )


def missing_sensitive(raw: Any, split: str) -> DataError:
    """What to say of a batch in which the constraint finds no sensitive attribute."""
    if isinstance(raw, Mapping):
        there = ", ".join(repr(key) for key in raw)
        return DataError(
            f"the {split} loader's dicts have no sensitive attribute, expected under one of {', '.join(SENSITIVE_KEYS)}; "
            f"there are {there}"
        )
    return DataError(
        f"the {split} loader yields (x, y) but the constraint needs (x, y, s): add the sensitive attribute, one group id "
        "per sample"
    )


def default_forward(model: nn.Module, inputs: Any) -> Tensor:
    """``model(x)``; a tuple is passed as arguments, a mapping by name; ``.logits`` is taken if there is one.

    Of a mapping whose names ``model.forward`` does not know, one field of :data:`INPUT_KEYS` alone may be the input; the
    others (a sample's id, the file it is from) are then not for the model.

    Raises:
        DataError: For a mapping that the model could take in part only.
    """
    if isinstance(inputs, Mapping):
        out = _by_name(model, inputs)
    elif isinstance(inputs, tuple | list):
        out = model(*inputs)
    else:
        out = model(inputs)
    logits: Tensor = getattr(out, "logits", out)
    return logits


def _by_name(model: nn.Module, fields: Mapping[str, Any]) -> Any:
    inner = getattr(
        model, "_orig_mod", model
    )  # of torch.compile; a data-parallel wrapper takes whatever its model does
    inner = inner.module if isinstance(inner, DistributedDataParallel) else inner
    try:
        signature = inspect.signature(inner.forward)
    except (TypeError, ValueError):  # of a forward that is not Python's
        return model(**fields)
    if _binds(signature, **fields):
        return model(**fields)
    one = next((key for key in INPUT_KEYS if key in fields), None)
    others = [key for key in fields if key != one]
    if one is not None and _binds(signature, fields[one]) and not any(key in signature.parameters for key in others):
        return model(fields[one])
    names = ", ".join(name for name in signature.parameters)
    raise DataError(
        f"expected the inputs in the batch under the names that {type(inner).__name__}.forward has for them ({names}), got "
        f"{', '.join(map(repr, fields))}: rename the fields and leave out what is not for the model, or pass "
        "forward=lambda model, inputs: …, which gets all of them as a dict"
    )


def _binds(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _move(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if isinstance(part, Mapping):
        return {key: _move(value, device) for key, value in part.items()}
    if isinstance(part, tuple | list):
        moved = [_move(value, device) for value in part]
        return type(part)(*moved) if hasattr(part, "_fields") else type(part)(moved)
    return part
