"""A pruned model as an ``ExportedProgram``: one graph without Python, checked against the model."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from ..checks import flag, number, shown
from ..engine.measure.evaluate import mode
from ..errors import ConfigError, UnsupportedModelError
from ..masks.norms import KeptStatistics
from .calls import TOLERANCE, answers, arguments_of, batch_axes, check_batch, difference, fewer, tensors

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def export_program(
    model: nn.Module, example_inputs: Any, *, dynamic_batch: bool = False, tolerance: float = TOLERANCE
) -> ExportedProgram:
    """``torch.export`` of a model in eval mode, run once and compared with the model.

    Args:
        model: Pruned: channels removed by ``step()`` or ``fit``, not only hidden.
        example_inputs: As they were given to the pruner.
        dynamic_batch: Whether any batch size shall do (tried with another one); needs two samples or more.
        tolerance: Largest difference that is accepted, relative to the largest output; whole numbers and truth values
            among the outputs must be equal.

    Returns:
        The program; ``torch.export.save`` writes it, ``.module()`` runs it.

    Raises:
        ConfigError: If channels are still hidden, the model cannot run on the inputs, or another argument means nothing.
        UnsupportedModelError: If the model cannot be exported, or the program answers otherwise than the model.
    """
    args, kwargs, shapes = checked_call(model, example_inputs, dynamic_batch, tolerance)
    try:
        with mode(model, training=False), torch.no_grad():
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:  # what torch.export raises is not one family of errors
        raise not_exportable("torch.export", error, dynamic_batch) from error
    run = program.module()
    for call in [(args, kwargs), *([fewer(args, kwargs)] if dynamic_batch else [])]:
        with torch.no_grad():
            got = tensors(run(*call[0], **call[1]))
        difference(answers(model, *call), got, "the exported program", tolerance)
    return program


def checked_call(
    model: Any, example_inputs: Any, dynamic_batch: bool, tolerance: float
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """What an exporter is asked for, tried before it is asked: its errors are about models, not about arguments.

    Returns:
        Positional arguments, keyword arguments, and which dimensions may vary (``None`` without ``dynamic_batch``).

    Raises:
        ConfigError: Naming the argument that cannot be meant.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"expected an nn.Module to export, got {type(model).__name__}: pass the pruned model itself, such as "
            "result.model or pruner.model"
        )
    flag("dynamic_batch", dynamic_batch)
    number("tolerance", tolerance, "as a number ≥ 0", lambda x: x >= 0, "of the largest output")
    check_removed(model)
    args, kwargs = arguments_of(example_inputs)
    shapes: Any = None
    if dynamic_batch:
        check_batch(args, kwargs)
        positional, keywords = batch_axes(args, kwargs)
        shapes = positional if positional else keywords
    try:
        answers(model, args, kwargs)
    except Exception as error:  # whatever the model's own code raises
        given = tree_map_only(Tensor, lambda tensor: tuple(tensor.shape), example_inputs)
        raise ConfigError(
            f"the model cannot run on example_inputs={shown(given)} ({type(error).__name__}: {error}): pass inputs as in "
            "model(example_inputs): a tensor, a tuple of arguments or a dict of keywords, on the model's device"
        ) from error
    return args, kwargs, shapes


def check_removed(model: nn.Module) -> None:
    """Refuses a model whose channels are hidden: it would be exported at its full size.

    Only models with layer or group norms over hidden channels show it.

    Raises:
        ConfigError: Naming such a layer.
    """
    for name, module in model.named_modules():
        if any(isinstance(hook, KeptStatistics) for hook in module._forward_hooks.values()):
            raise ConfigError(
                f"channels under {name} are hidden and not removed yet: call pruner.step() before exporting the model"
            )


def not_exportable(by: str, error: Exception, dynamic_batch: bool, hint: str = "") -> UnsupportedModelError:
    """The first line of what an exporter says, with what may help; ``hint`` says more of it."""
    # Torch's ONNX exporter wraps the error in a report of its attempts, coloured for a terminal.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    first = _COLOURS.sub("", str(cause)).strip().split("\n", 1)[0][:300]
    advice = "try dynamic_batch=False, or rewrite" if dynamic_batch else "rewrite"
    return UnsupportedModelError(
        f"{by} cannot take this model ({type(cause).__name__}: {first}): {advice} what it stumbles over{hint}"
    )
