"""Runs that led to the audited model: gap, multipliers and sparsity over steps, and where each run ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.results.result import FitResult
from ..errors import ConfigError
from . import text


@dataclass(frozen=True)
class Run:
    """One run of ``fit``.

    Attributes:
        name: Shown in the report.
        constraints: Names of its constraints.
        tolerances: Of each.
        steps: ``(T,)`` training steps at each evaluation.
        progress: ``(T,)`` share of the final pruning ratio that was hidden.
        gaps: Of each constraint, ``(T,)``; NaN where undefined.
        multipliers: Of each constraint, the largest λ at each evaluation, ``(T,)``.
        split: What the end of the run was judged on.
        accuracy: Of the pruned model there.
        gap: Of its constraint with the largest excess there; NaN without constraints.
        dense_accuracy: Of the dense model there.
        dense_gap: Of the same constraint.
        params: Share of the dense model's parameters that is left.
    """

    name: str
    constraints: tuple[str, ...]
    tolerances: tuple[float, ...]
    steps: tuple[float, ...]
    progress: tuple[float, ...]
    gaps: tuple[tuple[float, ...], ...]
    multipliers: tuple[tuple[float, ...], ...]
    split: str
    accuracy: float
    gap: float
    dense_accuracy: float
    dense_gap: float
    params: float

    @property
    def scale(self) -> str:
        """How its gaps are written: in points, unless a constraint is about a loss or a rate of a user's own."""
        return text.NUMBER if {"loss_parity", "rate_parity"} & set(self.constraints) else text.PERCENT

    @classmethod
    def of(cls, name: str, result: FitResult | Mapping[str, Any]) -> Run:
        """From a :class:`~..engine.results.result.FitResult`, or from what its ``to_dict`` or ``to_json`` wrote.

        Raises:
            ConfigError: If it is neither.
        """
        raw = result.to_dict() if isinstance(result, FitResult) else result
        try:
            return cls._of(name, raw)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"expected the history as a FitResult or its to_dict(), with 'history', 'before', 'after', 'dense' and "
                f"'pruned'; {name} cannot be read: {error!r}"
            ) from error

    @classmethod
    def _of(cls, name: str, raw: Mapping[str, Any]) -> Run:
        rows, after, before = raw["history"], raw["after"], raw["before"]
        verdicts = after["constraints"]
        number = range(len(verdicts))
        excesses = [_number(v["gap"]) - v["tolerance"] for v in verdicts]
        worst = max(number, key=lambda k: -math.inf if math.isnan(excesses[k]) else excesses[k], default=None)
        return cls(
            name=name,
            constraints=tuple(verdict["constraint"] for verdict in verdicts),
            tolerances=tuple(float(verdict["tolerance"]) for verdict in verdicts),
            steps=tuple(float(row["step"]) for row in rows),
            progress=tuple(_number(row["progress"]) for row in rows),
            gaps=tuple(tuple(_number(row["gaps"][k]) for row in rows) for k in number),
            multipliers=tuple(
                tuple(max((_number(v) for v in row["multipliers"][k]), default=0.0) for row in rows) for k in number
            ),
            split=after["split"],
            accuracy=_number(after["accuracy"]),
            gap=math.nan if worst is None else _number(verdicts[worst]["gap"]),
            dense_accuracy=_number(before["accuracy"]),
            dense_gap=math.nan if worst is None else _number(before["constraints"][worst]["gap"]),
            params=float(raw["pruned"]["params"]) / float(raw["dense"]["params"]),
        )


def runs_of(history: Any) -> tuple[Run, ...]:
    """From one result, several of them, or a mapping from names to results; ``None``: no runs."""
    if history is None:
        return ()
    if isinstance(history, FitResult) or (isinstance(history, Mapping) and "history" in history):
        return (Run.of("run", history),)
    if isinstance(history, Mapping):
        return tuple(Run.of(str(name), result) for name, result in history.items())
    if isinstance(history, Sequence) and not isinstance(history, str):
        return tuple(Run.of(f"run {number}", result) for number, result in enumerate(history, 1))
    raise ConfigError(f"expected the history as a FitResult, a list or a mapping of them, got {type(history).__name__}")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
