"""Points in a plane with a short key beside each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .marks import DOT, MARKS, gutter, levels, percent, spread, ticks
from .scale import Scale
from .style import SERIES

PLANE_HEIGHT = 260  # px
KEY_HEIGHT = 14.0  # px of a key in a plane
NEIGHBOURS = 10.0  # percent of the width that a key takes on a narrow screen


@dataclass(frozen=True)
class Point:
    """A point of a plane.

    Attributes:
        key: Short name beside it; empty: none.
        across: Its horizontal value.
        up: Its vertical value.
        series: Which colour it has.
        hollow: Whether its mark is an open circle.
    """

    key: str
    across: float
    up: float
    series: int
    hollow: bool = False


def plane(points: Sequence[Point], across: Scale, up: Scale, *, title: str, limit: float) -> str:
    """Points with a short key beside each, moved up or down where keys would touch.

    Args:
        points: What is drawn, the first ones undermost.
        across: The horizontal axis.
        up: The vertical axis.
        title: For readers who hear the picture.
        limit: Where a dashed vertical line stands; NaN: nowhere.
    """
    drawn = levels(up)
    if not math.isnan(limit):
        at = percent(across.percent(limit))
        drawn += f'<line class="limit" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
    places = [(across.percent(point.across), 100 - up.percent(point.up)) for point in points]
    for point, (x, y), shift in zip(points, places, _shifts(places), strict=True):
        mark = '<circle class="before" r="5"/>' if point.hollow else MARKS[DOT]
        side = -1 if x > 85 else 1
        anchor = "end" if side < 0 else "start"
        key = f'<text class="key" x="{9 * side}" y="{shift + 4:.0f}" text-anchor="{anchor}">{escape(point.key)}</text>'
        leader = f'<line class="leader" x2="{8 * side}" y2="{shift:.0f}"/>' if abs(shift) > 5 else ""
        drawn += (
            f'<svg class="t{point.series % SERIES}" x="{percent(x)}" y="{percent(y)}">{leader}{mark}'
            f"{key if point.key else ''}</svg>"
        )
    return (
        f'<div class="plot alone" role="img" aria-label="{escape(title, quote=True)}">{gutter(up, PLANE_HEIGHT)}'
        f'<div><svg style="height:{PLANE_HEIGHT}px">{drawn}</svg>'
        f'<svg style="height:18px">{ticks(across, lines=False)}</svg></div></div>'
    )


def _shifts(places: Sequence[tuple[float, float]]) -> list[float]:
    """How far down each key moves, in px, so that keys of neighbouring points do not touch at any width.

    Only the height is known in px; points nearer than a key's width on a narrow screen are neighbours.
    """
    order = sorted(range(len(places)), key=lambda k: places[k][0])
    clusters: list[list[int]] = []
    for k in order:
        if clusters and places[k][0] - places[clusters[-1][-1]][0] < NEIGHBOURS:
            clusters[-1].append(k)
        else:
            clusters.append([k])
    shifts = [0.0] * len(places)
    for cluster in clusters:
        wanted = [places[k][1] * PLANE_HEIGHT / 100 for k in cluster]
        for k, before, after in zip(cluster, wanted, spread(wanted, KEY_HEIGHT, PLANE_HEIGHT), strict=True):
            shifts[k] = after - before
    return shifts
