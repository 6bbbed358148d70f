"""The report as Markdown (GitHub's tables)."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence

from . import text, wording
from .decide import MET, VIOLATED
from .measures import Measure
from .report import FairnessAudit, GroupingReport
from .tables import tables

SIGNS = {MET: "✅", VIOLATED: "❌"}


def markdown(report: FairnessAudit, *, level: int = 1) -> str:
    """The whole report.

    Args:
        report: What was found.
        level: Of the first heading.
    """
    return "\n".join(_lines(report, "#" * level)) + "\n"


def escaped(value: str) -> str:
    """A user's text, so that it stays text: in a table, and in whatever turns Markdown into HTML."""
    flat = " ".join(value.split())
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(flat, quote=False))


def _lines(report: FairnessAudit, mark: str) -> Iterator[str]:
    yield f"{mark} Fairness audit: {escaped(report.model_name)}"
    yield ""
    against = f", against {escaped(report.reference_name)}" if report.reference_name else ""
    skipped = f"; {text.count(report.skipped)} in no group" if report.skipped else ""
    yield (
        f"{text.count(report.samples)} samples of the {escaped(report.split)} split{skipped}; {report.task}{against}. "
        f"{wording.headline(report)}"
    )
    if report.verdicts:
        yield from _section(f"{mark}# Verdicts")
        yield from _verdicts(report)
    for heading, notes in (
        ("Levelling down", [wording.levelling_sentence(flag, report) for flag in report.levelling_down]),
        ("Notes on the data", report.warnings),
    ):
        if notes:
            yield from _section(f"{mark}# {heading}")
            yield from (f"- {escaped(note)}" for note in notes)
    for grouping in report.groupings:
        yield from _grouping(report, grouping, mark)
    yield from _section(f"{mark}# How the numbers were made")
    settings = report.settings
    yield (
        f"{wording.METHOD} {settings.bootstrap} bootstrap replicates, seed {settings.seed}, {settings.bins} bins. Gaps and "
        "changes are in percentage points (losses in nats)."
    )


def _section(heading: str) -> list[str]:
    return ["", heading, ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _verdicts(report: FairnessAudit) -> Iterator[str]:
    yield _row(["Constraint", "Verdict", "Gap", "95 % interval", "Tolerance", "Groups"])
    yield _row(["---", "---", "---:", "---:", "---:", "---"])
    for verdict in report.verdicts:
        yield _row(
            [
                escaped(wording.verdict_title(verdict)),
                f"{SIGNS.get(verdict.status, '❔')} {verdict.status}",
                text.difference(verdict.gap, verdict.scale),
                text.interval(verdict.low, verdict.high, verdict.scale),
                text.difference(verdict.tolerance, verdict.scale),
                escaped(", ".join(verdict.groups)) or text.NOTHING,
            ]
        )
    yield ""
    for verdict in report.verdicts:
        sentences = [
            wording.gap_sentence(verdict, report),
            wording.reference_sentence(verdict, report),
            wording.needed_sentence(verdict, report),
            *(f"{note}." for note in verdict.notes),
        ]
        yield f"- **{escaped(wording.verdict_title(verdict))}**: {escaped(' '.join(s for s in sentences if s))}"


def _grouping(report: FairnessAudit, grouping: GroupingReport, mark: str) -> Iterator[str]:
    about = f" by {escaped(grouping.attribute)}" if grouping.attribute else ""
    yield from _section(f"{mark}# Groups{about}")
    sizes = dict(zip(grouping.groups, grouping.sizes, strict=True))
    for table in tables(report, grouping):
        if table.title:
            yield from ["", f"{mark}## {escaped(table.title)}", ""]
        yield _row(["Group", "Samples", *map(escaped, table.columns)])
        yield _row(["---", *["---:"] * (1 + len(table.columns))])
        for group, measures in table.rows:
            count = text.count(sizes.get(group, report.samples))
            yield _row([escaped(group), count, *map(_cell, measures)])
        yield ""


def _cell(measure: Measure) -> str:
    if math.isnan(measure.value):
        return text.NOTHING
    out = f"{text.value(measure.value, measure.scale)} ({text.interval(measure.low, measure.high, measure.scale)})"
    if not math.isnan(measure.change):
        ends = text.interval(measure.change_low, measure.change_high, measure.scale)
        out += f"<br>{text.change(measure.change, measure.scale)} ({ends})"
    return out
