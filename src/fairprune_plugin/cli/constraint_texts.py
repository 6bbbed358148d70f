"""Constraints and groups as they are written on a command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from ..fairness.constraint import Constraint
from ..fairness.constraints import CONSTRAINTS, constraint_from

NUMBERS = {"positive": int, "label": int, "min_group_size": int, "floor": float}


def parse_constraint(text: str, groups: Any = None) -> Constraint:
    """``"equal_opportunity:0.02,reference=overall"`` as a constraint about ``groups`` (default: discovered).

    Raises:
        ConfigError: If it is written in another way, or is not a constraint.
    """
    head, *rest = text.split(",")
    name, colon, tolerance = head.partition(":")
    try:
        if not colon:
            raise ValueError("the tolerance is missing")
        options: dict[str, Any] = {"name": name, "tolerance": float(tolerance)}
        for item in rest:
            key, equals, value = item.partition("=")
            if not equals:
                raise ValueError(f"{item!r} is not KEY=VALUE")
            options[key] = NUMBERS.get(key, str)(value)
    except ValueError as error:
        raise ConfigError(
            f"expected --constraint as NAME:TOLERANCE[,KEY=VALUE…], such as equal_opportunity:0.02, got {text!r}: {error}"
        ) from error
    if name in CONSTRAINTS and "groups" in {item.name for item in dataclasses.fields(CONSTRAINTS[name])}:
        options.setdefault("groups", groups)
    constraint = constraint_from(options)
    assert constraint is not None
    return constraint


def parse_groups(texts: Sequence[str]) -> Any:
    """``["female,male"]`` as names, ``["gender=female,male", "race="]`` as a mapping; nothing as ``None``: discovered.

    Raises:
        ConfigError: If several are given and one does not name its attribute.
    """
    if not texts:
        return None
    pairs = [text.partition("=") for text in texts]
    if len(pairs) == 1 and not pairs[0][1]:
        return tuple(texts[0].split(","))
    if not all(equals for _, equals, _ in pairs):
        raise ConfigError(f"expected --groups ATTRIBUTE=A,B,… for each of several attributes, got {' '.join(texts)!r}")
    return {attribute: tuple(names.split(",")) if names else None for attribute, _, names in pairs}
