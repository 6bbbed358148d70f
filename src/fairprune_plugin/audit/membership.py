"""Which sample is in which group, and which samples are in none: those are counted and shown, never silently dropped."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..fairness.attribute import UNKNOWN, is_missing
from ..fairness.attribute_columns import attribute_columns
from ..fairness.constraint import Constraint
from ..fairness.discovery import discover
from ..fairness.groups import Groups

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Membership:
    """The groups of one grouping.

    Attributes:
        groups: Their names.
        ids: ``(N,)`` int64, negative where a sample belongs to none.
        missing: Samples without a value (NaN or ``None``).
        unknown: Values that the constraint never saw, and how many samples have them.
    """

    groups: Groups
    ids: Tensor
    missing: int
    unknown: Mapping[str, int]

    @property
    def skipped(self) -> int:
        """Samples of no group."""
        return int((self.ids == UNKNOWN).sum())


def assign(
    constraints: Sequence[Constraint], sensitive: Sequence[Any], sizes: Sequence[int]
) -> tuple[tuple[Constraint, ...], dict[Groups, Membership]]:
    """The constraints with their groups discovered where they were left to the data, and the membership of each grouping.

    Without constraints there is one grouping, discovered.

    Raises:
        DataError: If a sensitive attribute is missing or cannot be read, or a grouping has no sample at all.
    """
    found: dict[Groups, Groups] = {}
    memberships: dict[Groups, Membership] = {}
    for declared in dict.fromkeys([c.group_spec for c in constraints] or [Groups.parse(None)]):
        absent = [_missing(batch, declared, size) for batch, size in zip(sensitive, sizes, strict=True)]
        kept = [_take(batch, ~gone) for batch, gone in zip(sensitive, absent, strict=True)]
        left = [int((~gone).sum()) for gone in absent]
        groups = declared
        if not declared.known:
            batches = [(batch, size, CPU) for batch, size in zip(kept, left, strict=True) if size]
            groups = discover(declared, batches)
        found[declared] = groups
        memberships[groups] = _membership(groups, kept, left, absent)
    replaced = tuple(
        c if c.group_spec.known else dataclasses.replace(c, groups=found[c.group_spec]) for c in constraints
    )
    return replaced, memberships


def _membership(groups: Groups, kept: list[Any], left: list[int], absent: list[Tensor]) -> Membership:
    ids, unknown = [], Counter[str]()
    for batch, size, gone in zip(kept, left, absent, strict=True):
        own = torch.full((len(gone),), UNKNOWN)
        if size:
            known = groups.ids(batch, batch=size, device=CPU)
            own[~gone] = known
            if bool((known == UNKNOWN).any()):
                unknown.update(_unknown_values(groups, batch, known))
        ids.append(own)
    joined = torch.cat(ids)
    if bool((joined == UNKNOWN).all()):
        values = ", ".join(list(unknown)[:8]) or "missing values only"
        raise DataError(
            f"no sample belongs to a group of the constraint, which knows {', '.join(groups.names[:8])}; the loader has "
            f"{values}: check how the sensitive attribute is read, or pass groups=None to discover the groups"
        )
    return Membership(groups, joined, int(sum(gone.sum() for gone in absent)), dict(unknown))


def _unknown_values(groups: Groups, sensitive: Any, ids: Tensor) -> list[str]:
    """What the samples of no group have, in words."""
    columns = attribute_columns(sensitive, groups.attributes, batch=len(ids), device=CPU)
    out = []
    for row in (ids == UNKNOWN).nonzero().reshape(-1).tolist():
        parts = []
        for attribute, column in zip(groups.attributes, columns, strict=True):
            value = column[row].item() if isinstance(column, Tensor) else column[row]
            text = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(text if attribute.key is None else f"{attribute.key}={text}")
        out.append(", ".join(parts))
    return out


def _missing(sensitive: Any, groups: Groups, size: int) -> Tensor:
    """Which samples lack a value of an attribute that the grouping is about, ``(N,)`` bool."""
    gone = torch.zeros(size, dtype=torch.bool)
    for column in _columns(sensitive, groups, size):
        if isinstance(column, Tensor):
            gone |= torch.isnan(column).reshape(size, -1).any(1) if column.is_floating_point() else False
        else:
            gone |= torch.tensor([is_missing(value) for value in column], dtype=torch.bool)
    return gone


def _columns(sensitive: Any, groups: Groups, size: int) -> Sequence[Any]:
    if not groups.attributes and isinstance(sensitive, Mapping):
        columns = list(sensitive.values())
    elif not groups.attributes and isinstance(sensitive, Tensor) and sensitive.dim() == 2:
        columns = list(sensitive.unbind(1))
    elif not groups.attributes:
        columns = [sensitive]
    else:
        return attribute_columns(sensitive, groups.attributes, batch=size, device=CPU)
    for column in columns:
        if not isinstance(column, Tensor | list | tuple) or (isinstance(column, Tensor) and column.dim() == 0):
            raise DataError(
                "expected the sensitive attribute as a tensor of group ids or a list of names, one per sample, got "
                f"{type(column).__name__}"
            )
        if len(column) != size:
            raise DataError(f"expected the sensitive attribute for {size} samples, got {len(column)} values")
    return columns


def _take(sensitive: Any, rows: Tensor) -> Any:
    """The sensitive attribute of some samples of a batch."""
    if isinstance(sensitive, Tensor):
        return sensitive[rows]
    if isinstance(sensitive, Mapping):
        return {key: _take(column, rows) for key, column in sensitive.items()}
    return [value for value, keep in zip(sensitive, rows.tolist(), strict=True) if keep]
