"""What all pictures are made of: marks, axes, legends, and labels that keep apart.

Positions are percentages, so that a picture fills whatever width there is while its text keeps its size; names are
HTML beside the drawing, so that they wrap instead of being cut off. Every name is escaped where it is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .scale import Scale
from .style import DASHES

DOT, UP, DOWN = "dot", "up", "down"
MARKS = {
    DOT: '<circle class="mark" r="5.5"/>',
    UP: '<path class="mark" d="M-6 5H6L0-6z"/>',
    DOWN: '<path class="mark" d="M-6-5H6L0 6z"/>',
}


def swatch(kind: str, tone: str = "t0", number: int = 0) -> str:
    """A sample for a legend: ``"dot"``, ``"up"``, ``"down"``, ``"before"``, ``"band"``, ``"limit"`` or ``"line"``."""
    if kind in ("limit", "band"):
        inner = f'<line class="{kind}" x1="0" x2="26" y1="7" y2="7"/>'
    elif kind == "line":
        inner = f'<line class="line" x1="0" x2="26" y1="7" y2="7" stroke-dasharray="{DASHES[number % len(DASHES)]}"/>'
    else:
        mark = '<circle class="before" r="5"/>' if kind == "before" else MARKS[kind]
        inner = f'<svg x="13" y="7">{mark}</svg>'
    return f'<svg class="{tone}" width="26" height="14" aria-hidden="true">{inner}</svg>'


def ticks(scale: Scale, *, lines: bool = True) -> str:
    """The labels of a horizontal axis, with small lines above them."""

    def tick_line(x: str) -> str:
        return f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="4"/>' if lines else ""

    return "".join(
        f'{tick_line(x)}<text x="{x}" y="15" text-anchor="{scale.anchor(tick)}">{scale.label(tick)}</text>'
        for tick, x in ((tick, percent(scale.percent(tick))) for tick in scale.ticks)
    )


def levels(scale: Scale) -> str:
    """Horizontal lines at the ticks."""
    return "".join(
        f'<line class="{"zero" if tick == 0 else "grid"}" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        for tick, y in ((tick, percent(100 - scale.percent(tick))) for tick in scale.ticks)
    )


def gutter(scale: Scale, height: float) -> str:
    """The labels of a vertical axis, left of the drawing."""
    labels = "".join(
        f'<text x="100%" y="{y}" dy="4" text-anchor="end">{scale.label(tick)}</text>'
        for tick, y in ((tick, percent(100 - scale.percent(tick))) for tick in scale.ticks)
    )
    return f'<svg style="height:{height:.0f}px">{labels}</svg>'


def spread(wanted: Sequence[float], room: float, height: float) -> list[float]:
    """Positions as near to the wanted ones as labels that must not touch allow."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    placed = list(_downwards([wanted[k] for k in order], room))
    excess = max(0.0, placed[-1] - (height - room / 2)) if placed else 0.0
    ceiling = math.inf
    for position in range(len(placed) - 1, -1, -1):
        placed[position] = min(placed[position] - (excess if position == len(placed) - 1 else 0.0), ceiling)
        ceiling = placed[position] - room
    out = [0.0] * len(wanted)
    for position, k in enumerate(order):
        out[k] = placed[position]
    return out


def _downwards(wanted: Sequence[float], room: float) -> Iterator[float]:
    floor = room / 2
    for position in wanted:
        floor = max(floor, position)
        yield floor
        floor += room


def percent(number: float) -> str:
    """A position as SVG wants it."""
    return f"{number:.2f}%"
