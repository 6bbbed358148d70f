"""Where a batch keeps its sensitive attributes: one column for each, out of a tensor, a mapping, an array or a list."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import shown
from ..errors import DataError
from .arrays import is_numeric, tensor_of
from .attribute import LARGEST_ID, Attribute


def attribute_columns(
    sensitive: Any, attributes: Sequence[Attribute], *, batch: int, device: torch.device
) -> list[Tensor | Sequence[Any]]:
    """The values of each attribute in a batch: ``(N,)`` tensors or lists of ``N`` names.

    Raises:
        DataError: If an attribute is missing (it is named) or has the wrong shape or device.
    """
    columns: list[Any] = [
        _listed_ids(_column(sensitive, attribute, position, attributes), device)
        for position, attribute in enumerate(attributes)
    ]
    for attribute, column in zip(attributes, columns, strict=True):
        if isinstance(column, Tensor):
            if column.shape != (batch,):
                raise DataError(
                    f"expected {attribute} of shape ({batch},), one group id per sample, got {tuple(column.shape)}"
                )
            if column.device != device:
                raise DataError(f"logits are on {device} but {attribute} on {column.device}: move the batch")
        elif isinstance(column, str) or not isinstance(column, Sequence):
            raise DataError(
                f"expected {attribute} as a tensor of group ids or a list of {batch} names, got {type(column).__name__}"
            )
        elif len(column) != batch:
            raise DataError(f"expected {attribute} for {batch} samples, got {len(column)} values")
    return columns


def _listed_ids(column: Any, device: torch.device) -> Any:
    """A list or array of whole numbers means what a tensor of them means; an array of names is a list of names."""
    if isinstance(column, np.ma.MaskedArray):
        column = column.tolist() if np.ma.is_masked(column) else column.data  # what is masked becomes None: missing
    if isinstance(column, np.ndarray):
        column = tensor_of(column).to(device) if is_numeric(column) else column.tolist()
    if isinstance(column, list | tuple):
        column = [value.item() if isinstance(value, Tensor) and value.dim() == 0 else value for value in column]
        integral = all(isinstance(value, numbers.Integral) for value in column)
        if not integral and all(isinstance(value, numbers.Real) for value in column):
            return torch.tensor([float(value) for value in column], device=device, dtype=torch.float64)
    if isinstance(column, list) and all(isinstance(value, numbers.Integral) for value in column):
        column = [int(value) for value in column]
        if any(abs(value) > LARGEST_ID for value in column):
            raise DataError(f"expected group ids that fit 64 bits, got {shown(max(column, key=abs))}")
        return torch.tensor(column, device=device, dtype=torch.long)
    return column


def _column(sensitive: Any, attribute: Attribute, position: int, attributes: Sequence[Attribute]) -> Any:
    key = attribute.key
    if isinstance(sensitive, Mapping):
        if key is None and len(sensitive) == 1:
            return next(iter(sensitive.values()))
        if key not in sensitive:
            there = ", ".join(repr(name) for name in sensitive) or "nothing"
            wanted = "one attribute" if key is None else f"{key!r}"
            raise DataError(
                f"expected {wanted} among the batch's sensitive attributes, which are {there}: name the attributes in the "
                "constraint, groups={'gender': 2, …}, as the loader names them"
            )
        return sensitive[key]
    if (
        isinstance(sensitive, Tensor | np.ndarray)
        and sensitive.ndim == 2
        and (key is not None or sensitive.shape[1] == 1)
    ):
        named = isinstance(key, str) and not key.isdigit()  # column numbers come back from JSON as strings
        column = position if named or key is None else int(key)
        if (named and sensitive.shape[1] != len(attributes)) or not 0 <= column < sensitive.shape[1]:
            raise DataError(
                f"cannot tell which of the {sensitive.shape[1]} columns of the sensitive attributes {key!r} is: name all of "
                "them in the constraint, use column numbers as keys, groups={0: 2, …}, or let the loader yield a dict"
            )
        return sensitive[:, column]
    if key is not None and len(attributes) > 1:
        what = type(sensitive).__name__
        if isinstance(sensitive, Tensor | np.ndarray):
            what = f"{'a tensor' if isinstance(sensitive, Tensor) else 'an array'} of shape {tuple(sensitive.shape)}"
        names = ", ".join(repr(a.key) for a in attributes)
        raise DataError(
            f"the constraint is about {len(attributes)} attributes ({names}) but the batch has {what}: yield a dict of "
            "them, or a tensor or array (N, A) with one column each"
        )
    return sensitive
