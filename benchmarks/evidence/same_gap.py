"""Fronts compared: each point of another method with the point of our own at the same gap.

A method with a tolerance has a point for every tolerance, one without has a single point. Which of our own points stands
beside another one is decided on validation data, the comparison itself is of test data.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from .records import Row
from .statistics import Comparison, compare, standing
from .tables import by_method, mean_interval, values

Points = dict[float, list[Row]]  # tolerance → records by seed


def points(rows: Sequence[Row]) -> Points:
    """The records of one method by tolerance, the smallest first."""
    found = sorted({row["setting"]["tolerance"] for row in rows})
    return {tolerance: [row for row in rows if row["setting"]["tolerance"] == tolerance] for tolerance in found}


def paired(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The records of both whose seeds both have, in one order."""
    seeds = sorted({row["seed"] for row in ours} & {row["seed"] for row in theirs})
    first, second = ({row["seed"]: row for row in rows} for rows in (ours, theirs))
    return [first[seed] for seed in seeds], [second[seed] for seed in seeds]


def beside(own: Points, theirs: Sequence[Row]) -> float | None:
    """The largest of our tolerances whose mean validation gap is at most theirs; if none is, that of the least gap.

    Means are over the seeds that both have; none if there is no such seed at any tolerance.
    """
    least: tuple[float, float] | None = None
    best = None
    for tolerance, rows in own.items():
        ours, others = paired(rows, theirs)
        if not ours:
            continue
        gap = fmean(values(ours, "gap", "validation"))
        if gap <= fmean(values(others, "gap", "validation")):
            best = tolerance
        if least is None or gap < least[0]:
            least = gap, tolerance
    return best if best is not None or least is None else least[1]


def against_point(own: Points, theirs: Sequence[Row]) -> tuple[float, Comparison, Comparison] | None:
    """Our tolerance beside their point, and the paired differences in test accuracy and in test gap; none without common
    seeds."""
    tolerance = beside(own, theirs)
    if tolerance is None:
        return None
    ours, others = paired(own[tolerance], theirs)
    fields = [compare(values(ours, field), values(others, field)) for field in ("accuracy", "gap")]
    return tolerance, fields[0], fields[1]


def same_gap_table(rows: Sequence[Row], own: str) -> str:
    """One line for every point of every other method.

    Args:
        rows: Records of one question at one size.
        own: The method whose points are set beside the others'.
    """
    methods = by_method(rows)
    ours = points(methods[own])
    lines = [
        "| method | its tolerance | seeds | test accuracy | test gap | BiFP's tolerance | BiFP − it, accuracy "
        "| BiFP − it, gap | BiFP is |",
        "|---|" + "---:|" * 8,
    ]
    for method, found in methods.items():
        own_points = points(found)
        for tolerance, theirs in own_points.items():
            if method == own or (result := against_point(ours, theirs)) is None:
                continue
            beside_it, accuracy, gap = result
            asked = f"{tolerance:g}" if len(own_points) > 1 else "–"
            lines.append(
                f"| {method} | {asked} | {accuracy.pairs} | {mean_interval(values(theirs, 'accuracy'))} "
                f"| {mean_interval(values(theirs, 'gap'))} | {beside_it:g} | {accuracy} | {gap} "
                f"| {standing(accuracy, gap)} |"
            )
    return "\n".join(lines)
