"""Groups of a pruner's constraints in plain values: those that were discovered from the data are known again."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...fairness.attribute import Attribute
from ...fairness.groups import Groups
from ...fairness.lagrangian import Lagrangian


def groups_state(groups: Groups) -> dict[str, Any] | None:
    """Groups as plain values; ``None`` while they are to be discovered."""
    if not groups.known:
        return None
    attributes = [(a.key, list(a.names), None if a.codes is None else list(a.codes)) for a in groups.attributes]
    return {"attributes": attributes, "present": None if groups.present is None else list(groups.present)}


def groups_from(state: dict[str, Any]) -> Groups:
    """What :func:`groups_state` was taken of."""
    attributes = tuple(
        Attribute(key, tuple(names), None if codes is None else tuple(codes))
        for key, names, codes in state["attributes"]
    )
    return Groups(attributes, None if state["present"] is None else tuple(state["present"]))


def restore_groups(lagrangian: Lagrangian, states: list[dict[str, Any] | None]) -> None:
    """Groups that were discovered from the data are known again."""
    lagrangian.constraints = tuple(
        constraint
        if constraint.group_spec.known or state is None
        else dataclasses.replace(constraint, groups=groups_from(state))
        for constraint, state in zip(lagrangian.constraints, states, strict=True)
    )
