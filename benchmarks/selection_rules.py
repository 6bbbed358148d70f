"""Ways to choose one moment of a run, given what was measured on training and validation data. Never on test data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Moment = dict[str, Any]
Rule = Callable[[list[Moment], float], Moment]


def last(moments: list[Moment], tolerance: float) -> Moment:
    """No choice."""
    return moments[-1]


def _best(excess: Callable[[Moment, float], float | tuple[float, ...]]) -> Rule:
    """The least excess (of several: in this order), then the highest validation accuracy."""

    def choose(moments: list[Moment], tolerance: float) -> Moment:
        # Later moments win ties, as in the package.
        def order(item: tuple[int, Moment]) -> tuple[float, ...]:
            over = excess(item[1], tolerance)
            first = over if isinstance(over, tuple) else (over,)
            return (*(-value for value in first), item[1]["validation"]["accuracy"], item[0])

        return max(enumerate(moments), key=order)[1]

    return choose


def _over(moment: Moment, split: str, tolerance: float, half_widths: float = 0.0) -> float:
    measured = moment[split]
    return max(0.0, float(measured["gap"]) + half_widths * float(measured["half_width"]) - tolerance)


RULES: dict[str, Rule] = {
    "last moment": last,
    "gap": _best(lambda moment, tolerance: _over(moment, "validation", tolerance)),
    "gap + ½ half width": _best(lambda moment, tolerance: _over(moment, "validation", tolerance, 0.5)),
    "upper bound": _best(lambda moment, tolerance: _over(moment, "validation", tolerance, 1.0)),
    "gap, then training gap": _best(
        lambda moment, tolerance: (_over(moment, "validation", tolerance), _over(moment, "train", tolerance))
    ),
    "larger gap of both": _best(
        lambda moment, tolerance: max(_over(moment, "validation", tolerance), _over(moment, "train", tolerance))
    ),
    "gap, then training counts": _best(
        lambda moment, tolerance: (
            _over(moment, "validation", tolerance),
            max(0.0, moment["training_gap"] - tolerance),
        )
    ),
}


def applies(rule: str, moments: list[Moment]) -> bool:
    """Whether a run recorded what the rule looks at (raw files of earlier runs have no training counts)."""
    return "training counts" not in rule or all("training_gap" in moment for moment in moments)
