"""Groups read off the data: which values the sensitive attributes take, and which of them occur together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .attribute import Attribute, is_missing, whole_numbers
from .attribute_columns import attribute_columns
from .groups import Groups


def discover(declared: Groups, batches: Iterable[tuple[Any, int, torch.device]]) -> Groups:
    """Fills in what was not declared.

    Values that were declared keep their names; discovered ones are called by their number (``"race=3"`` when the
    attribute has a name) or by the name the loader gives. Intersections that never occur are left out.

    Args:
        declared: Possibly without attributes, or with attributes without names.
        batches: ``(sensitive, N, device)`` of every batch.

    Raises:
        DataError: If there is no batch, or fewer than two groups are met.
    """
    attributes: tuple[Attribute, ...] = declared.attributes
    seen: set[tuple[Any, ...]] = set()
    for sensitive, batch, device in batches:
        attributes = attributes or _attributes_of(sensitive)
        columns = attribute_columns(sensitive, attributes, batch=batch, device=device)
        for column, attribute in zip(columns, attributes, strict=True):
            if not isinstance(column, Tensor) and any(is_missing(value) for value in column):
                raise DataError(
                    f"{attribute} has missing values (None or NaN), which are no group: leave such samples out, or give "
                    "them a name of their own"
                )
        values = [
            whole_numbers(column, attribute).tolist() if isinstance(column, Tensor) else [str(v) for v in column]
            for attribute, column in zip(attributes, columns, strict=True)
        ]
        seen.update(zip(*values, strict=True))
    if not attributes:
        raise DataError("the loader is empty: no batch to discover groups from")
    found = tuple(
        attribute if attribute.names else _named(attribute.key, sorted({row[i] for row in seen}))
        for i, attribute in enumerate(attributes)
    )
    groups = Groups(found)
    if len(found) > 1:
        groups = Groups(found, _present(found, seen))
    if len(groups.names) < 2:
        raise DataError(
            f"the data contain one group only ({', '.join(groups.names)}): a gap needs at least two; check how the "
            "sensitive attribute is read"
        )
    return groups


def _attributes_of(sensitive: Any) -> tuple[Attribute, ...]:
    if isinstance(sensitive, Mapping):
        return tuple(Attribute(key, ()) for key in sensitive)
    if isinstance(sensitive, Tensor) and sensitive.dim() == 2 and sensitive.shape[1] > 1:
        return tuple(Attribute(column, ()) for column in range(sensitive.shape[1]))
    return (Attribute(None, ()),)


def _named(key: str | int | None, values: list[Any]) -> Attribute:
    if all(isinstance(value, str) for value in values):
        return Attribute(key, tuple(values))
    prefix = "" if key is None else f"{key}="
    return Attribute(key, tuple(f"{prefix}{value}" for value in values), tuple(values))


def _present(attributes: tuple[Attribute, ...], seen: set[tuple[Any, ...]]) -> tuple[int, ...]:
    """Positions, in the full product, of the combinations that occurred (undeclared values are left to the check)."""
    positions = set()
    for row in seen:
        position = 0
        for attribute, value in zip(attributes, row, strict=True):
            values = attribute.names if isinstance(value, str) else attribute.codes or range(len(attribute.names))
            if value not in values:
                break
            position = position * len(attribute.names) + list(values).index(value)
        else:
            positions.add(position)
    return tuple(sorted(positions))
