"""What the pictures of a report show: rates, changes, verdicts, and the runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .. import text
from ..decide import AuditVerdict
from ..history import Run
from ..levelling import HIGHER_IS_BETTER, title_key
from ..measures import Measure
from ..quantities import CALIBRATION_ERROR, COUNT, LOSS
from ..report import FairnessAudit, GroupingReport
from ..wording import is_binary
from .dots import Dot, dot_plot, track
from .lines import Curve, line_chart
from .marks import DOT, DOWN, UP
from .plane import Point, plane
from .scale import Scale
from .style import SERIES

PANELS = 12
DIRECTION = {**HIGHER_IS_BETTER, "precision": 1, "calibration_error": -1, "selection_rate": 0}


def pictured(report: FairnessAudit, grouping: GroupingReport) -> tuple[list[list[Measure]], int]:
    """The quantities that get a picture, each with its measures of all groups, and how many more would deserve one.

    Of a binary task all rates; of the others accuracy and what the constraints compare, so that twenty classes do
    not make a hundred pictures. The tables have everything.
    """
    table: dict[tuple[str, int | None, int | None], list[Measure]] = {}
    for item in grouping.measures:
        table.setdefault(item.key, []).append(item)
    if report.task != "2 classes":
        wanted = {
            gap.rate for verdict in report.verdicts if verdict.attribute == grouping.attribute for gap in verdict.gaps
        }
        table = {key: items for key, items in table.items() if key == ("accuracy", None, None) or _of(items, wanted)}
    order = [items for items in table.values() if items[0].name not in (LOSS, COUNT)]
    return order[:PANELS], max(0, len(order) - PANELS)


def rates(report: FairnessAudit, items: Sequence[Measure], everyone: Iterable[str]) -> str:
    """One quantity of all groups, with intervals and the reference model's value."""
    outside = set(everyone)
    scale = _rate_scale(items[0], [end for m in items for end in (m.low, m.high, m.value, m.reference)])
    rows = [
        Dot(
            m.group,
            m.value,
            m.low,
            m.high,
            text.value(m.value, m.scale),
            text.interval(m.low, m.high, m.scale),
            before=m.reference,
            everyone=m.group not in outside,
        )
        for m in items
    ]
    return dot_plot(rows, scale, title=f"{title_of(report, items[0])} per group")


def changes(report: FairnessAudit, items: Sequence[Measure], everyone: Iterable[str]) -> str:
    """The change of one quantity against the reference model, of all groups."""
    outside = set(everyone)
    ends = [end for m in items for end in (m.change_low, m.change_high, m.change)]
    scale = Scale.of([0.0, *ends], factor=_factor(items[0].scale), least=0.02, ticks=3)
    rows = [
        Dot(
            m.group,
            m.change,
            m.change_low,
            m.change_high,
            text.change(m.change, m.scale),
            text.interval(m.change_low, m.change_high, m.scale),
            *_tone(m),
            everyone=m.group not in outside,
        )
        for m in items
    ]
    title = f"{title_of_change(report, items[0])} against {report.reference_name}"
    return dot_plot(rows, scale, title=title, zero=True)


def gap(verdict: AuditVerdict) -> str:
    """A constraint's gap with its interval against the tolerance; nothing if it is undefined."""
    if math.isnan(verdict.gap):
        return ""
    factor = _factor(verdict.scale)
    scale = Scale.of(
        [0.0, verdict.low, verdict.high, 1.1 * verdict.tolerance], factor=factor, unit=" pts" if factor == 100 else ""
    )
    dot = Dot(
        "",
        verdict.gap,
        verdict.low,
        verdict.high,
        text.difference(verdict.gap, verdict.scale),
        text.interval(verdict.low, verdict.high, verdict.scale),
        tone="tone",
    )
    return track(dot, scale, limit=verdict.tolerance, title="Gap")


def history(run: Run) -> list[tuple[str, str]]:
    """Title and picture of gap, multipliers and sparsity over the steps of a run."""
    found = []
    names = [text.constraint_title(name) for name in run.constraints]
    if names:
        factor = _factor(run.scale)
        values = [0.0, *(v for row in run.gaps for v in row), *run.tolerances]
        scale = Scale.of(values, least=0.02, factor=factor, unit=" pts" if factor == 100 else "")
        curves = [
            Curve(name, values, text.difference(_last(values), run.scale))
            for name, values in zip(names, run.gaps, strict=True)
        ]
        picture = line_chart(run.steps, curves, scale, title="Gap over steps", limits=run.tolerances)
        found.append((f"Gap on the {run.split} data (dashed level: tolerance)", picture))
        scale = Scale.of([0.0, *(v for row in run.multipliers for v in row)], least=0.1)
        curves = [
            Curve(name, values, f"λ = {_last(values):.2f}") for name, values in zip(names, run.multipliers, strict=True)
        ]
        picture = line_chart(run.steps, curves, scale, title="Multipliers over steps")
        found.append(("Largest multiplier of each constraint", picture))
    scale = Scale.of([0.0, 1.0], factor=100, unit=" %")
    curve = Curve("Sparsity", run.progress, f"{100 * _last(run.progress):.0f} % of the target")
    found.append(("Sparsity reached", line_chart(run.steps, [curve], scale, title="Sparsity over steps")))
    return found


def trade_off(runs: Sequence[Run]) -> str:
    """Accuracy against gap at the end of every run, and of the dense models they began with (open circles)."""
    known = [(number, run) for number, run in enumerate(runs) if not math.isnan(run.gap)]
    if len(known) < 2:
        return ""
    points, dense = [], set()
    for number, run in known:
        points.append(Point(key_of(number), run.gap, run.accuracy, number))
        start = (round(run.dense_gap, 6), round(run.dense_accuracy, 6))
        if not math.isnan(run.dense_gap) and start not in dense:
            dense.add(start)
            points.append(Point("", run.dense_gap, run.dense_accuracy, SERIES - 1, hollow=True))
    percent = all(run.scale == text.PERCENT for _, run in known)
    across = Scale.of(
        [0.0, *(p.across for p in points)], factor=100 if percent else 1, unit=" pts" if percent else "", least=0.02
    )
    room = 0.15 * (max(p.up for p in points) - min(p.up for p in points))  # no point sits on the axis
    up = Scale.of(
        [p.up + side * room for p in points for side in (-1, 1)], factor=100, unit=" %", least=0.02, bounds=(0.0, 1.0)
    )
    limits = {run.tolerances[0] for _, run in known if len(set(run.tolerances)) == 1}
    limit = limits.pop() if len(limits) == 1 else math.nan
    words = "; ".join(f"{run.name}: accuracy {run.accuracy:.3f}, gap {run.gap:.3f}" for _, run in known)
    return plane(points, across, up, title=f"Accuracy against gap. {words}", limit=limit)


def key_of(number: int) -> str:
    """A, B, …, Z, AA, AB, …: short names of runs."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def title_of(report: FairnessAudit, measure: Measure) -> str:
    """A measure's quantity in words."""
    return text.title(measure.name, measure.cls, measure.label, report.class_names, binary=is_binary(report))


def title_of_change(report: FairnessAudit, measure: Measure) -> str:
    """Its change, with the unit."""
    unit = text.unit(measure.scale)
    return f"{title_of(report, measure)}, change{f' in{unit}' if unit else ''}"


def _of(items: Sequence[Measure], rates: set[str]) -> bool:
    key = title_key(items[0])
    return key in rates or f"{items[0].name}[macro]" in rates


def _tone(measure: Measure) -> tuple[str, str]:
    """Colour and shape: better, worse, or neither for certain."""
    sign = DIRECTION.get(measure.name, 0)
    certain = measure.change_low > 0 or measure.change_high < 0
    mark = UP if measure.change > 0 else DOWN
    if not certain or math.isnan(measure.change):
        return "same", DOT
    if sign == 0:
        return "t6", mark
    return ("gain" if sign * measure.change > 0 else "loss"), mark


def _rate_scale(measure: Measure, values: Sequence[float]) -> Scale:
    if measure.scale != text.PERCENT:
        return Scale.of(values, least=0.1, ticks=3)
    least = 0.02 if measure.name == CALIBRATION_ERROR else 0.1
    return Scale.of(values, factor=100, least=least, bounds=(0.0, 1.0), ticks=3)


def _factor(scale: str) -> float:
    return 100.0 if scale == text.PERCENT else 1.0


def _last(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return known[-1] if known else math.nan
