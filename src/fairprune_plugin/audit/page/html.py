"""The report as one self-contained HTML page: no script, no font, nothing fetched; all text of users escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from html import escape

from .. import text, wording
from ..decide import MET, VIOLATED, AuditVerdict
from ..measures import Measure
from ..report import FairnessAudit, GroupingReport
from ..tables import Table, tables
from . import pictures
from .marks import swatch
from .style import CSS

SIGNS = {MET: "✓", VIOLATED: "✕"}


def page(report: FairnessAudit) -> str:
    """A whole document."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Fairness audit: {escape(report.model_name)}</title>\n"
        "<style>html,body{margin:0;min-height:100%;background:#fff}\n"
        "@media (prefers-color-scheme:dark){html,body{background:#14171b}}</style>\n</head>\n<body>\n"
        f"{fragment(report)}\n</body>\n</html>\n"
    )


def fragment(report: FairnessAudit) -> str:
    """The report with its style, for a notebook's cell."""
    return f'<div class="fpa"><style>{CSS}</style><div class="inner">\n{"".join(_sections(report))}</div></div>'


def _sections(report: FairnessAudit) -> Iterator[str]:
    yield _head(report)
    if report.verdicts:
        yield f'<div class="cards">{"".join(_card(verdict, report) for verdict in report.verdicts)}</div>\n'
    flags = [wording.levelling_sentence(flag, report) for flag in report.levelling_down]
    if flags:
        yield f'<h2>Levelling down</h2><div class="card alert">{_list(flags)}</div>\n'
    if report.warnings:
        yield f"<h2>Notes on the data</h2>{_list(report.warnings)}\n"
    for grouping in report.groupings:
        yield from _grouping(report, grouping)
    yield from _runs(report)
    settings = report.settings
    yield (
        f'<h2>How the numbers were made</h2><p class="muted">{escape(wording.METHOD)} {settings.bootstrap} bootstrap '
        f"replicates, seed {settings.seed}, {settings.bins} bins. Gaps and changes are in percentage points, losses in "
        "nats.</p>\n"
    )


def _head(report: FairnessAudit) -> str:
    against = f", against {escape(report.reference_name)}" if report.reference_name else ""
    skipped = f" · {text.count(report.skipped)} in no group" if report.skipped else ""
    return (
        f"<h1>Fairness audit: {escape(report.model_name)}{against}</h1>\n"
        f'<p class="muted">{text.count(report.samples)} samples of the {escape(report.split)} split{skipped} · '
        f"{report.task} · {wording.headline(report)}</p>\n"
    )


def _list(notes: Iterable[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>'


def _card(verdict: AuditVerdict, report: FairnessAudit) -> str:
    kind = {MET: " met", VIOLATED: " violated"}.get(verdict.status, "")
    sentences = [
        wording.gap_sentence(verdict, report),
        wording.reference_sentence(verdict, report),
        wording.needed_sentence(verdict, report),
    ]
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences if sentence)
    notes = _list(verdict.notes) if verdict.notes else ""
    return (
        f'<section class="card{kind}"><div class="head"><h3>{escape(wording.verdict_title(verdict))}</h3>'
        f'<span class="pill">{SIGNS.get(verdict.status, "?")} {verdict.status}</span></div>'
        f"{pictures.gap(verdict)}{words}{notes}</section>"
    )


def _grouping(report: FairnessAudit, grouping: GroupingReport) -> Iterator[str]:
    about = f" by {escape(grouping.attribute)}" if grouping.attribute else ""
    shown, more = pictures.pictured(report, grouping)
    reference = escape(report.reference_name)
    before = [f"<span>{swatch('before')} {reference}</span>"] if report.reference_name else []
    yield f"<h2>Rates{about}</h2>"
    yield _legend(
        f"<span>{swatch('dot')} {escape(report.model_name)}</span>",
        f"<span>{swatch('band')} 95 % interval</span>",
        *before,
    )
    yield _panels((pictures.title_of(report, m[0]), pictures.rates(report, m, grouping.groups)) for m in shown)
    if more:
        yield f'<p class="muted">{more} more are in the tables below.</p>'
    if report.reference_name:
        yield f"<h2>Change against {reference}{about}</h2>"
        yield _legend(
            f"<span>{swatch('up', 'gain')} better</span>",
            f"<span>{swatch('down', 'loss')} worse</span>",
            f"<span>{swatch('dot', 'same')} not told apart from no change</span>",
            "<span>triangles point where the value went</span>",
        )
        yield _panels(
            (pictures.title_of_change(report, m[0]), pictures.changes(report, m, grouping.groups)) for m in shown
        )
    yield f"<h2>All numbers{about}</h2>"
    change = f", and change against {reference}" if report.reference_name else ""
    yield f'<p class="muted">Value, 95 % interval{change}.</p>'
    sizes = dict(zip(grouping.groups, grouping.sizes, strict=True))
    for number, table in enumerate(tables(report, grouping)):
        drawn = _table(table, sizes, report)
        yield drawn if not number else f"<details><summary>{escape(table.title)}</summary>{drawn}</details>"


def _legend(*entries: str) -> str:
    return f'<div class="legend">{"".join(entries)}</div>'


def _panels(entries: Iterable[tuple[str, str]]) -> str:
    drawn = "".join(f'<section class="panel"><h3>{escape(title)}</h3>{picture}</section>' for title, picture in entries)
    return f'<div class="panels">{drawn}</div>\n'


def _table(table: Table, sizes: dict[str, int], report: FairnessAudit) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in ("Group", "Samples", *table.columns))
    rows = ""
    for group, measures in table.rows:
        cells = "".join(_cell(column, measure) for column, measure in zip(table.columns, measures, strict=True))
        count = text.count(sizes.get(group, report.samples))
        rows += f'<tr><td>{escape(group)}</td><td data-label="Samples"><span>{count}</span></td>{cells}</tr>'
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>\n'


def _cell(column: str, measure: Measure) -> str:
    scale = measure.scale
    out = f"<span>{text.value(measure.value, scale)}</span>"
    if not math.isnan(measure.low):
        out += f"<small>{text.interval(measure.low, measure.high, scale)}</small>"
    if not math.isnan(measure.change):
        out += f'<span class="delta">{text.change(measure.change, scale)}</span>'
    return f'<td data-label="{escape(column)}">{out}</td>'


def _runs(report: FairnessAudit) -> Iterator[str]:
    if not report.runs:
        return
    yield "<h2>Training</h2>"
    for number, run in enumerate(report.runs):
        drawn = _panels(pictures.history(run)) if run.steps else '<p class="muted">No history was kept.</p>'
        yield f"<details{'' if number else ' open'}><summary>{escape(run.name)}</summary>{drawn}</details>"
    picture = pictures.trade_off(report.runs)
    if picture:
        yield "<h2>Accuracy against gap, run by run</h2>"
        yield (
            '<p class="muted">Where each run ended, on the data it was judged by; the gap is that of its constraint with '
            "the largest excess. Up and to the left is better.</p>"
        )
        yield _legend(
            f"<span>{swatch('before', 't6')} dense model</span>",
            f"<span>{swatch('limit', 't6')} tolerance</span>",
        )
        yield f'<section class="panel">{picture}</section>{_run_table(report)}'


def _run_table(report: FairnessAudit) -> str:
    heads = "".join(f"<th>{head}</th>" for head in ("Run", "Data", "Accuracy", "Gap", "Parameters left"))
    rows = ""
    for number, run in enumerate(report.runs):
        named = f"{pictures.key_of(number)} · {run.name}"
        rows += (
            f'<tr><td>{escape(named)}</td><td data-label="Data"><span>{escape(run.split)}</span></td>'
            f'<td data-label="Accuracy"><span>{text.value(run.accuracy, text.PERCENT)}</span></td>'
            f'<td data-label="Gap"><span>{text.difference(run.gap, run.scale)}</span></td>'
            f'<td data-label="Parameters left"><span>{text.value(run.params, text.PERCENT)}</span></td></tr>'
        )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>\n'
