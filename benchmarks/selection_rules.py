"""Ways to choose one moment of a run, given what was measured on training and validation data. Never on test data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Moment = dict[str, Any]
Rule = Callable[[list[Moment], float], Moment]


def last(moments: list[Moment], tolerance: float) -> Moment:
    """No choice."""
    return moments[-1]


def _best(excess: Callable[[Moment, float], float]) -> Rule:
    def choose(moments: list[Moment], tolerance: float) -> Moment:
        # Later moments win ties, as in the package.
        return max(
            enumerate(moments),
            key=lambda item: (-excess(item[1], tolerance), item[1]["validation"]["accuracy"], item[0]),
        )[1]

    return choose


def _over(moment: Moment, split: str, tolerance: float, half_widths: float = 0.0) -> float:
    measured = moment[split]
    return max(0.0, float(measured["gap"]) + half_widths * float(measured["half_width"]) - tolerance)


RULES: dict[str, Rule] = {
    "last moment": last,
    "gap": _best(lambda moment, tolerance: _over(moment, "validation", tolerance)),
    "gap + ½ half width": _best(lambda moment, tolerance: _over(moment, "validation", tolerance, 0.5)),
    "upper bound": _best(lambda moment, tolerance: _over(moment, "validation", tolerance, 1.0)),
    "gap on both": _best(
        lambda moment, tolerance: max(_over(moment, "validation", tolerance), _over(moment, "train", tolerance))
    ),
    "gap and training counts": _best(
        lambda moment, tolerance: max(_over(moment, "validation", tolerance), moment["training_gap"] - tolerance)
    ),
}


def applies(rule: str, moments: list[Moment]) -> bool:
    """Whether a run recorded what the rule looks at (raw files of earlier runs have no training counts)."""
    return "training counts" not in rule or all("training_gap" in moment for moment in moments)
