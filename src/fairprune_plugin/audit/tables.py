"""The per-group tables of a report: which quantities stand together, and the rows of each group."""

from __future__ import annotations

from dataclasses import dataclass

from . import text
from .measures import Measure
from .report import FairnessAudit, GroupingReport
from .wording import is_binary


@dataclass(frozen=True)
class Table:
    """Quantities that are read together.

    Attributes:
        title: Class or label they are about; empty for the first table of a grouping.
        columns: Title of each quantity.
        rows: Of each group, its name and its measures in the order of the columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Measure, ...]], ...]


def tables(report: FairnessAudit, grouping: GroupingReport) -> list[Table]:
    """One table of a binary task; of a multi-class one also one per class, of a multi-label one also one per label."""
    binary = is_binary(report)
    parts = dict.fromkeys(_part(measure, binary) for measure in grouping.measures)
    groups = dict.fromkeys(measure.group for measure in grouping.measures)
    found = []
    for part in parts:
        rows = tuple(
            (group, tuple(m for m in grouping.measures if m.group == group and _part(m, binary) == part))
            for group in groups
        )
        names = report.class_names if part[0] is None else ()
        columns = tuple(text.title(m.name, m.cls if binary else None, None, names, binary=True) for m in rows[0][1])
        found.append(Table(_title(part, report), columns, rows))
    return found


def _part(measure: Measure, binary: bool) -> tuple[int | None, int | None]:
    return measure.label, None if binary else measure.cls


def _title(part: tuple[int | None, int | None], report: FairnessAudit) -> str:
    label, cls = part
    if label is not None:
        return report.class_names[label] if report.class_names else f"Label {label}"
    if cls is not None:
        return report.class_names[cls] if report.class_names else f"Class {cls}"
    return ""
