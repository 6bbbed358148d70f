"""Who belongs to which group: declared attributes, their intersections, and the group ids of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import shown
from ..errors import ConfigError, DataError
from ..value_checks import known_in_range, refuse_if
from .attribute import MOST_GROUPS, UNKNOWN, Attribute, codes_of, declared_attribute, on_device
from .attribute_columns import attribute_columns

JOINED = " × "


@dataclass(frozen=True)
class Groups:
    """The groups a constraint is about: the values of one attribute, or the intersections of several.

    Attributes:
        attributes: One or more. None, or one without names: to be discovered from data (see :mod:`.discovery`).
        present: Positions of the groups in the full product of the attributes' values; ``None``: all of them.
    """

    attributes: tuple[Attribute, ...]
    present: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, spec: Any) -> Groups:
        """From a number of groups, their names, a mapping ``attribute → number or names``, or ``None`` (discover; also
        as a value of the mapping).

        Raises:
            ConfigError: For anything else, or fewer than two groups.
        """
        if isinstance(spec, Groups):
            return spec
        if spec is None:
            return cls(())
        if isinstance(spec, Mapping):
            groups = cls(tuple(declared_attribute(key, value) for key, value in spec.items()))
        else:
            groups = cls((declared_attribute(None, spec),))
        if not groups.attributes or (groups.known and _product(groups) < 2):
            raise ConfigError(
                f"expected at least two groups (their number or their names), got {shown(spec)}: one group alone has no gap"
            )
        if groups.known and _product(groups) > MOST_GROUPS:
            raise ConfigError(
                f"expected at most {MOST_GROUPS} groups, got {_product(groups)}: pass the number of groups or their names, "
                "not the number of samples"
            )
        return groups

    @property
    def label(self) -> str:
        """What the groups are about: the attributes' keys, joined; empty for a single attribute without one."""
        return JOINED.join(str(attribute.key) for attribute in self.attributes if attribute.key is not None)

    def spec(self) -> Any:
        """Plain values that :meth:`parse` reads back (what was discovered is to be discovered again)."""
        values: dict[Any, list[str] | None] = {}
        for attribute in self.attributes:
            declared = attribute.codes is None or attribute.codes == codes_of(attribute.names)
            values[attribute.key] = list(attribute.names) or None if declared and self.present is None else None
        return values.get(None) if set(values) <= {None} else values

    @property
    def known(self) -> bool:
        """Whether the groups are declared (or already discovered)."""
        return bool(self.attributes) and all(attribute.names for attribute in self.attributes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ``G`` groups; intersections read ``"female × White"``."""
        if not self.known:
            return ()
        product: list[str] = list(self.attributes[0].names)
        for attribute in self.attributes[1:]:
            product = [f"{left}{JOINED}{right}" for left in product for right in attribute.names]
        return tuple(product if self.present is None else (product[i] for i in self.present))

    def ids(self, sensitive: Any, *, batch: int, device: torch.device) -> Tensor:
        """Group id of each sample, ``(N,)`` int64; :data:`UNKNOWN` for a value that was never declared.

        Args:
            sensitive: ``(N,)`` or ``(N, A)`` whole numbers, a mapping of ``(N,)`` ones, or lists of ids or value names.
            batch: Number of samples ``N`` of the logits.
            device: Where the logits are.

        Raises:
            DataError: Wrong type, shape, device, NaN or fractions, or a missing attribute (it is named).
        """
        columns = attribute_columns(sensitive, self.attributes, batch=batch, device=device)
        if len(columns) == 1 and self.present is None:
            return self.attributes[0].ids(columns[0], device)
        ids = torch.zeros(batch, dtype=torch.long, device=device)
        missing = torch.zeros(batch, dtype=torch.bool, device=device)
        for attribute, column in zip(self.attributes, columns, strict=True):
            own = attribute.ids(column, device)
            missing |= own == UNKNOWN
            ids = ids * len(attribute.names) + own.clamp_min(0)
        if self.present is not None:
            size = math.prod(len(attribute.names) for attribute in self.attributes)
            position = {product: number for number, product in enumerate(self.present)}
            ids = on_device(device, tuple(position.get(product, UNKNOWN) for product in range(size)))[ids]
        return ids.masked_fill(missing, UNKNOWN)

    def checked_ids(self, sensitive: Any, *, batch: int, device: torch.device) -> Tensor:
        """Like :meth:`ids`, but a value that was never declared is an error.

        Raises:
            DataError: Also for such a value.
        """
        ids = self.ids(sensitive, batch=batch, device=device)
        if known_in_range(ids, MOST_GROUPS):
            return ids
        refuse_if((ids == UNKNOWN).any(), lambda: DataError(self._undeclared(sensitive, ids)))
        return ids.clamp_min(0)  # a group that is not there would bring an accelerator down before it is refused

    def _undeclared(self, sensitive: Any, ids: Tensor) -> str:
        columns = attribute_columns(sensitive, self.attributes, batch=len(ids), device=ids.device)
        for attribute, column in zip(self.attributes, columns, strict=True):
            wrong = (attribute.ids(column, ids.device) == UNKNOWN).nonzero().reshape(-1)
            if len(wrong):
                value = column[int(wrong[0])]
                known = ", ".join(attribute.names[:8]) + (", …" if len(attribute.names) > 8 else "")
                what = f"group id {int(value)}" if isinstance(value, Tensor) else f"group {value!r}"
                return (
                    f"{what} of {attribute} was never declared: this constraint knows {len(attribute.names)} groups "
                    f"({known}); {_fix(attribute, value, column)}"
                )
        return (
            "an intersection of the sensitive attributes was not there when groups were discovered: declare the groups"
        )


def _fix(attribute: Attribute, value: Any, column: Any) -> str:
    if not isinstance(value, Tensor):
        return "pass its name too to the constraint, or give whole numbers as ids"
    if attribute.codes is not None:
        return "it was not there when they were discovered: declare the groups, groups=…"
    if int(value) < 0:
        return "give the unknown group an id of its own or drop those samples"
    key = attribute.key
    values = tuple(column.unique().tolist())
    numbered = attribute.names == tuple(map(str, range(len(attribute.names))))
    if numbered and len(values) == len(attribute.names):  # as many as there are groups, with other ids than 0, 1, …
        return f"pass the ids themselves, groups={values if key is None else {key: values}}, to the constraint"
    more = int(value) + 1
    groups = str(more) if key is None else f"{{{key!r}: {more}, …}}"
    return f"pass groups={groups} (or their names) to the constraint"


def _product(groups: Groups) -> int:
    return math.prod(len(attribute.names) for attribute in groups.attributes)
