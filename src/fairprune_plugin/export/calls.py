"""How a model is called with its example inputs, what comes out, and how far two answers are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..engine.measure.evaluate import mode
from ..errors import ConfigError, UnsupportedModelError

TOLERANCE = 1e-3


def arguments_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, by Torch-Pruning's rule: a tensor, a tuple or list of them, or a dict.

    Raises:
        ConfigError: For anything else.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, dict):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise ConfigError(
        "expected example_inputs as a tensor, a tuple or list of arguments, or a dict of keyword arguments, got "
        f"{type(example_inputs).__name__}"
    )


def answers(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """All floating-point tensors a model returns, in eval mode and without gradients."""
    with mode(model, training=False), torch.no_grad():
        return floats(model(*args, **kwargs))


def floats(outputs: Any) -> list[Tensor]:
    """The floating-point tensors among the outputs, on the CPU."""
    leaves = tree_leaves(outputs)
    return [leaf.detach().cpu().float() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def batch_axes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Which dimensions may vary: the first of every tensor, under one name; nothing of other arguments."""
    batch = torch.export.Dim("batch")
    axes: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(
        lambda leaf: {0: batch} if isinstance(leaf, Tensor) else None, (args, kwargs)
    )
    return axes


def check_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A batch size of one is read as a constant by torch.export.

    Raises:
        ConfigError: If the tensors do not share a first dimension of at least two.
    """
    sizes = sorted(
        {leaf.shape[0] if leaf.dim() else 0 for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    )
    if len(sizes) != 1 or sizes[0] < 2:
        raise ConfigError(
            f"dynamic_batch=True needs example inputs that share a batch of two or more, got first dimensions {sizes}: pass "
            "such inputs, or dynamic_batch=False"
        )


def fewer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with the last sample left out."""
    cut: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(Tensor, lambda tensor: tensor[:-1], (args, kwargs))
    return cut


def difference(expected: Sequence[Tensor], got: Iterable[Tensor], what: str, tolerance: float) -> float:
    """Largest absolute difference over all outputs.

    Raises:
        UnsupportedModelError: If it exceeds ``tolerance`` times the largest expected value, or shapes differ.
    """
    others = list(got)
    if [tuple(e.shape) for e in expected] != [tuple(o.shape) for o in others]:
        raise UnsupportedModelError(
            f"{what} answers with shapes {[tuple(o.shape) for o in others]} instead of {[tuple(e.shape) for e in expected]}"
        )
    largest = _largest([e - o for e, o in zip(expected, others, strict=True)])
    scale = _largest(expected)
    if not largest <= tolerance * max(scale, 1e-12):
        raise UnsupportedModelError(
            f"{what} differs from the model by {largest:.3g} where the outputs reach {scale:.3g} (tolerated: {tolerance:g} "
            "of it): do not use it, or raise tolerance= if that is good enough"
        )
    return largest


def _largest(tensors: Sequence[Tensor]) -> float:
    """Largest absolute value of all; NaN if any is."""
    found = [tensor.abs().max().double() for tensor in tensors if tensor.numel()]
    return float(torch.stack(found).amax()) if found else 0.0
