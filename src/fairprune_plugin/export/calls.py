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
    """All tensors a model returns, as :func:`tensors` has them, in eval mode and without gradients."""
    with mode(model, training=False), torch.no_grad():
        return tensors(model(*args, **kwargs))


def tensors(outputs: Any) -> list[Tensor]:
    """The tensors among the outputs, on the CPU: floating-point numbers as float32, complex ones as pairs ``(…, 2)`` of
    them, whole numbers and truth values as they are."""
    return [_comparable(leaf.detach().cpu()) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _comparable(output: Tensor) -> Tensor:
    if output.is_complex():
        return torch.view_as_real(output.resolve_conj()).float()
    return output.float() if output.is_floating_point() else output


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
    """Largest absolute difference over all floating-point outputs.

    Raises:
        UnsupportedModelError: If it exceeds ``tolerance`` times the largest expected value, if any whole number or truth
            value differs, or if shapes do.
    """
    others = list(got)
    if [tuple(e.shape) for e in expected] != [tuple(o.shape) for o in others]:
        raise UnsupportedModelError(
            f"{what} answers with shapes {[tuple(o.shape) for o in others]} instead of {[tuple(e.shape) for e in expected]}"
        )
    pairs = list(zip(expected, others, strict=True))
    for number, (own, other) in enumerate(pairs):
        if not own.is_floating_point():
            _refuse_other_numbers(own, other, f"output {number} of {what}")
    floats = [(own, other) for own, other in pairs if own.is_floating_point()]
    largest = _largest([own - other for own, other in floats])
    scale = _largest([own for own, _ in floats])
    if not largest <= tolerance * max(scale, 1e-12):
        raise UnsupportedModelError(
            f"{what} differs from the model by {largest:.3g} where the outputs reach {scale:.3g} (tolerated: {tolerance:g} "
            "of it): do not use it, or raise tolerance= if that is good enough"
        )
    return largest


def _refuse_other_numbers(expected: Tensor, got: Tensor, what: str) -> None:
    wrong = expected.numpy() != got.numpy()  # by value, of whatever width
    if wrong.any():
        raise UnsupportedModelError(
            f"{what} differs from the model in {int(wrong.sum())} of {wrong.size} whole numbers or truth values: do not use "
            "it; if they are classes whose scores are nearly equal on these example inputs, pass others"
        )


def _largest(values: Sequence[Tensor]) -> float:
    """Largest absolute value of all; NaN if any is."""
    found = [tensor.abs().max().double() for tensor in values if tensor.numel()]
    return float(torch.stack(found).amax()) if found else 0.0
