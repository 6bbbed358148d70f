"""Units that one sparse goal is about, and how the targets that share them are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..masks.groups import UnitGroup

Key = tuple[str, str]  # module name, target name


@dataclass(frozen=True)
class UnitSet:
    """Units that one sparse goal is about.

    Attributes:
        keys: The targets that share the units.
        group: What the engine masks.
        grain: Weights of the targets that one unit stands for.
        least_units: Units that always stay.
        pattern: ``(N, M)`` of N:M sparsity.
        inside: Whether consumers are masked (channels of the graph) and not the targets themselves.
    """

    keys: tuple[Key, ...]
    group: UnitGroup
    grain: int
    least_units: int = 1
    pattern: tuple[int, int] | None = None
    inside: bool = False


def listed(keys: Sequence[Key]) -> str:
    """For messages."""
    return ", ".join(".".join(key) for key in keys)
