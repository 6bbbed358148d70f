"""Axes with round ticks, labels that do not touch, and shapes for every case."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.audit.history import Run
from fairprune_plugin.audit.page import plane
from fairprune_plugin.audit.page.dots import Dot, dot_plot
from fairprune_plugin.audit.page.lines import Curve, line_chart
from fairprune_plugin.audit.page.marks import spread
from fairprune_plugin.audit.page.pictures import history, key_of
from fairprune_plugin.audit.page.scale import Scale

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(NUMBERS, st.booleans())
def test_axis_holds_its_values_and_has_few_round_ticks(values: list[float], pad: bool) -> None:
    scale = Scale.of(values, pad=pad)
    assert all(0 <= scale.percent(value) <= 100 for value in values)
    assert scale.low <= min(values) + 1e-6
    assert scale.high >= max(values) - 1e-6
    assert 1 <= len(scale.ticks) <= 8
    assert all(scale.low - 1e-6 <= tick <= scale.high + 1e-6 for tick in scale.ticks)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_bounded_axis_never_leaves_its_bounds(values: list[float]) -> None:
    scale = Scale.of(values, least=0.1, bounds=(0.0, 1.0), factor=100)
    assert 0 <= scale.low < scale.high <= 1
    assert scale.high - scale.low >= 0.1 - 1e-9
    assert all(scale.low - 1e-9 <= value <= scale.high + 1e-9 for value in values)


def test_ticks_in_words() -> None:
    scale = Scale.of([-0.02, 0.05], factor=100, unit=" pts")
    assert [scale.label(tick) for tick in scale.ticks] == ["−2 pts", "0 pts", "2 pts", "4 pts", "6 pts"]
    assert [scale.anchor(tick) for tick in (scale.low, 0.02, scale.high)] == ["start", "middle", "end"]
    assert Scale.of([math.nan]).low < Scale.of([math.nan]).high


@given(st.lists(st.floats(0, 170), min_size=1, max_size=9))
def test_labels_at_the_ends_of_curves_do_not_touch(wanted: list[float]) -> None:
    room = 20.0
    height = max(170.0, room * len(wanted))
    placed = spread(wanted, room, height)
    order = sorted(placed)
    assert all(b - a >= room - 1e-6 for a, b in itertools.pairwise(order))
    assert order[0] >= room / 2 - 1e-6
    assert order[-1] <= height - room / 2 + 1e-6
    ranks = sorted(range(len(wanted)), key=lambda k: wanted[k])
    assert [placed[k] for k in ranks] == order


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=12))
def test_keys_of_neighbouring_points_do_not_touch(places: list[tuple[float, float]]) -> None:
    heights = [y * 2.6 + shift for (_, y), shift in zip(places, plane._shifts(places), strict=True)]
    for (one, a), (other, b) in itertools.combinations(zip([x for x, _ in places], heights, strict=True), 2):
        assert abs(one - other) >= plane.NEIGHBOURS - 1e-9 or abs(a - b) >= plane.KEY_HEIGHT - 1e-6


def test_dot_without_a_value_is_not_drawn() -> None:
    nan = math.nan
    drawn = dot_plot([Dot("a", nan, nan, nan, "–")], Scale.of([0.0, 1.0]), title="t")
    assert "<circle" not in drawn
    assert 'class="band"' not in drawn
    assert ">a<" in drawn


def test_curve_with_holes() -> None:
    nan = math.nan
    drawn = line_chart(
        [0, 1, 2, 3, 4, 5], [Curve("c", [0.1, 0.2, nan, 0.3, nan, nan])], Scale.of([0, 1]), title="t", limits=[nan]
    )
    assert drawn.count("<polyline") == 1
    assert drawn.count('r="3.5"') == 1
    assert "limit" not in drawn
    assert line_chart([], [Curve("c", [])], Scale.of([0, 1]), title="t")


def test_names_in_pictures_are_escaped() -> None:
    bad = '"><b>'
    drawn = dot_plot([Dot(bad, 0.5, 0.4, 0.6, bad, bad)], Scale.of([0.0, 1.0]), title=bad)
    drawn += line_chart([0, 1], [Curve(bad, [0, 1], bad)], Scale.of([0, 1]), title=bad)
    drawn += plane.plane(
        [plane.Point(bad, 0.1, 0.2, 0, hollow=True)], Scale.of([0, 1]), Scale.of([0, 1]), title=bad, limit=0.5
    )
    assert bad not in drawn
    assert "<b><b>" not in drawn


def test_short_names_of_runs() -> None:
    assert [key_of(k) for k in (0, 1, 25, 26, 27, 701, 702)] == ["A", "B", "Z", "AA", "AB", "ZZ", "AAA"]


@pytest.mark.parametrize(("notion", "labelled"), [("loss_parity", False), ("accuracy_parity", True)])
def test_gaps_of_a_run_are_in_points_only_where_they_are_shares(notion: str, labelled: bool) -> None:
    curves = {"steps": (10.0, 20.0), "progress": (0.5, 1.0), "gaps": ((0.5, 0.35),), "multipliers": ((0.1, 0.3),)}
    end = {"split": "validation", "accuracy": 0.8, "gap": 0.35, "dense_accuracy": 0.9, "dense_gap": 0.2, "params": 0.5}
    run = Run("bifp", (notion,), (0.3,), **curves, **end)  # type: ignore[arg-type]
    title, picture = history(run)[0]
    assert title.startswith("Gap")
    assert ("pts" in picture) == labelled
