"""Dots with intervals: one row per group over a common axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .marks import DOT, MARKS, percent, ticks
from .scale import Scale


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot.

    Attributes:
        name: At its left.
        value: Where the dot is; NaN: no dot.
        low: Where its interval begins; NaN: no interval.
        high: Where it ends.
        text: The value in words, at its right.
        detail: The interval in words, below.
        tone: CSS class of the colour.
        mark: Shape of the dot.
        before: Where the open circle of the reference model is; NaN: none.
        everyone: Whether this is the row of all samples.
    """

    name: str
    value: float
    low: float
    high: float
    text: str
    detail: str = ""
    tone: str = "t0"
    mark: str = DOT
    before: float = math.nan
    everyone: bool = False


def dot_plot(rows: Sequence[Dot], scale: Scale, *, title: str, zero: bool = False, limit: float = math.nan) -> str:
    """Rows of dots with intervals over one axis.

    Args:
        rows: From top to bottom.
        scale: The axis.
        title: For readers who hear the picture.
        zero: Whether 0 gets a line of its own.
        limit: Where a dashed line stands; NaN: nowhere.
    """
    summary = escape(f"{title}. " + "; ".join(f"{row.name}: {row.text} ({row.detail})" for row in rows), quote=True)
    width = min(13.0, max(4.5, 0.58 * max((len(row.name) for row in rows), default=0)))
    body = "".join(_dot_row(row, scale, zero=zero, limit=limit) for row in rows)
    axis = f'<div class="row axis"><span class="who"></span><svg class="track">{ticks(scale)}</svg><span></span></div>'
    return f'<div role="img" aria-label="{summary}" style="--name:{width:.1f}rem">{body}{axis}</div>'


def track(dot: Dot, scale: Scale, *, limit: float, title: str) -> str:
    """A single dot over the whole width, with its axis."""
    label = escape(f"{title}: {dot.text} ({dot.detail})", quote=True)
    return (
        f'<div role="img" aria-label="{label}"><svg class="track">{_drawing(dot, scale, zero=True, limit=limit)}</svg>'
        f'<div class="axis"><svg class="track">{ticks(scale)}</svg></div></div>'
    )


def _dot_row(row: Dot, scale: Scale, *, zero: bool, limit: float) -> str:
    detail = f"<small>{escape(row.detail)}</small>" if row.detail else ""
    return (
        f'<div class="row{" all" if row.everyone else ""}"><span class="who">{escape(row.name)}</span>'
        f'<svg class="track" aria-hidden="true">{_drawing(row, scale, zero=zero, limit=limit)}</svg>'
        f'<span class="num">{escape(row.text)}{detail}</span></div>'
    )


def _drawing(dot: Dot, scale: Scale, *, zero: bool, limit: float) -> str:
    out = "".join(
        f'<line class="{"zero" if zero and tick == 0 else "grid"}" x1="{x}" x2="{x}" y1="0" y2="100%"/>'
        for tick, x in ((tick, percent(scale.percent(tick))) for tick in scale.ticks)
    )
    if not math.isnan(limit):
        x = percent(scale.percent(limit))
        out += f'<line class="limit" x1="{x}" x2="{x}" y1="-2" y2="26"/>'
    inner = ""
    if not math.isnan(dot.low) and not math.isnan(dot.high):
        low, high = (percent(scale.percent(end)) for end in (dot.low, dot.high))
        inner += f'<line class="band" x1="{low}" x2="{high}" y1="12" y2="12"/>'
    if not math.isnan(dot.before):
        inner += f'<svg x="{percent(scale.percent(dot.before))}" y="12"><circle class="before" r="5"/></svg>'
    if not math.isnan(dot.value):
        inner += f'<svg x="{percent(scale.percent(dot.value))}" y="12">{MARKS[dot.mark]}</svg>'
    return f'{out}<g class="{dot.tone}">{inner}</g>'
