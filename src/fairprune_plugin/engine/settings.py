"""Settings as a host's user gives them: objects, the plain values of a config file, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..distributed import ALONE, Ranks
from ..fairness.constraint import Constraint
from ..fairness.constraints import constraint_from
from ..fairness.lagrangian import Lagrangian, TaskLoss
from ..fairness.multipliers import MultiplierConfig
from .config import BiLevelConfig

GivenConstraint = Constraint | Sequence[Constraint] | Mapping[str, Any] | str | None
GivenBiLevel = BiLevelConfig | dict[str, Any] | None
GivenMultipliers = MultiplierConfig | dict[str, Any] | None


def bilevel_config(given: GivenBiLevel) -> BiLevelConfig:
    """Settings of the alternation.

    Raises:
        ConfigError: For an unknown key or a value outside its range.
    """
    if given is None:
        return BiLevelConfig()
    return given if isinstance(given, BiLevelConfig) else BiLevelConfig.from_dict(given)


def lagrangian_of(
    constraint: GivenConstraint, multipliers: GivenMultipliers, task_loss: TaskLoss | None, ranks: Ranks = ALONE
) -> Lagrangian:
    """The loss of both levels.

    Args:
        constraint: One, several, one in plain values, or none.
        multipliers: Settings of the multipliers.
        task_loss: ``(logits, targets) → scalar``; default (binary) cross entropy.
        ranks: That train together.

    Raises:
        ConfigError: For what is none of these.
    """
    if isinstance(multipliers, Mapping):
        multipliers = MultiplierConfig.from_dict(multipliers)
    if isinstance(constraint, Mapping | str):
        constraint = constraint_from(constraint)
    return Lagrangian(constraint, config=multipliers, task_loss=task_loss, ranks=ranks)
