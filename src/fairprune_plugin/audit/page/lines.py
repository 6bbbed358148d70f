"""Curves over training steps, each named at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .marks import gutter, levels, percent, spread, swatch
from .scale import Scale
from .style import DASHES, SERIES

LABEL_HEIGHT = 17  # px of one line of text at the end of a curve


@dataclass(frozen=True)
class Curve:
    """One line of a line chart: ``(T,)`` values (NaN: not drawn), and what stands at its end."""

    name: str
    values: Sequence[float]
    text: str = ""


def line_chart(
    steps: Sequence[float], curves: Sequence[Curve], scale: Scale, *, title: str, limits: Sequence[float] = ()
) -> str:
    """Curves over training steps, each named at its end.

    Args:
        steps: ``(T,)``.
        curves: At most as many as there are colours are told apart by colour; dashes do the rest.
        scale: The vertical axis.
        title: For readers who hear the picture.
        limits: A dashed level of each curve; NaN or none: nowhere.
    """
    lines = 2 if any(len(curve.name) + len(curve.text) > 26 for curve in curves) else 1
    room = (lines + 0.4) * LABEL_HEIGHT
    height = max(170.0, room * len(curves))
    across = Scale.of([*steps] or [0.0], pad=False)
    drawn = levels(scale) + "".join(
        f'<line class="limit" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        for y in (percent(100 - scale.percent(limit)) for limit in limits if not math.isnan(limit))
    )
    drawn += "".join(_curve(number, curve, steps, across, scale) for number, curve in enumerate(curves))
    at = spread([_end_of(curve, scale) * height / 100 for curve in curves], room, height)
    ends = "".join(_end(number, curve, top) for number, (curve, top) in enumerate(zip(curves, at, strict=True)))
    words = escape(f"{title}. " + "; ".join(f"{curve.name}: {curve.text} at the end" for curve in curves), quote=True)
    feet = "".join(
        f'<text x="{percent(across.percent(tick))}" y="13" text-anchor="{across.anchor(tick)}">{across.label(tick)}</text>'
        for tick in across.ticks
    )
    return (
        f'<div class="plot" role="img" aria-label="{words}">{gutter(scale, height)}<div>'
        f'<svg style="height:{height:.0f}px">{drawn}</svg>'
        f'<svg style="height:18px">{feet}</svg></div><div class="ends" style="height:{height:.0f}px">{ends}</div></div>'
    )


def _curve(number: int, curve: Curve, steps: Sequence[float], across: Scale, up: Scale) -> str:
    pieces: list[list[str]] = [[]]
    for step, value in zip(steps, curve.values, strict=True):
        if math.isnan(value):
            pieces.append([])
        else:
            pieces[-1].append(f"{across.percent(step):.3f},{100 - up.percent(value):.3f}")
    tone, dash = f"t{number % SERIES}", DASHES[number % len(DASHES)]
    lines = "".join(
        f'<polyline class="line" vector-effect="non-scaling-stroke" stroke-dasharray="{dash}" points="{" ".join(piece)}"/>'
        for piece in pieces
        if len(piece) > 1
    )
    dots = "".join(
        '<svg x="{}%" y="{}%"><circle class="mark" r="3.5"/></svg>'.format(*piece[0].split(","))
        for piece in pieces
        if len(piece) == 1
    )
    return (
        f'<g class="{tone}"><svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">{lines}</svg>'
        f"{dots}</g>"
    )


def _end_of(curve: Curve, scale: Scale) -> float:
    """Where a curve ends, in percent from the top."""
    known = [value for value in curve.values if not math.isnan(value)]
    return 100 - scale.percent(known[-1]) if known else 50.0


def _end(number: int, curve: Curve, top: float) -> str:
    tone = f"t{number % SERIES}"
    return (
        f'<div class="end {tone}" style="top:{top:.0f}px"><i>{swatch("line", tone, number)}</i>'
        f"<span><b>{escape(curve.name)}</b> {escape(curve.text)}</span></div>"
    )
