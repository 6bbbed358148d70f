"""Fronts compared point by point, at the same gap."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from evidence.problems import SETTINGS
from evidence.same_gap import against_point, beside, points, same_gap_table
from evidence.statistics import AHEAD, ALIKE, standing
from evidence.tradeoff import questions

SMILING = SETTINGS["smiling"]


def row(
    method: str,
    factor: float,
    validation_gap: float,
    gap: float,
    accuracy: float = 0.8,
    seed: int = 0,
    ratio: float = 0.9,
) -> dict[str, Any]:
    splits = {"validation": {"gap": validation_gap}, "test": {"accuracy": accuracy, "gap": gap, "degenerate": False}}
    setting = asdict(replace(SMILING, tolerance=SMILING.tolerance * factor))
    return {"setting": setting, "method": method, "budget": {"ratio": ratio}, "seed": seed, "splits": splits}


def test_the_largest_tolerance_that_is_as_fair_on_validation_stands_beside_a_point() -> None:
    own = points([row("bifp", factor, gap, 0.9) for factor, gap in ((1, 0.02), (4, 0.07), (2, 0.04))])
    tolerances = list(own)
    assert tolerances == sorted(tolerances)
    assert beside(own, [row("lamp", 1, 0.05, 0.0)]) == tolerances[1]
    assert beside(own, [row("lamp", 1, 0.07, 0.0)]) == tolerances[2]
    assert beside(own, [row("lamp", 1, 0.01, 0.0)]) == tolerances[0]  # none is as fair: the fairest
    assert beside(own, [row("lamp", 1, 0.01, 0.0, seed=3)]) is None


def test_gaps_are_compared_over_the_seeds_that_both_have() -> None:
    """The second seed of the tight tolerance has no partner."""
    own = points([row("bifp", 1, 0.02, 0.9), row("bifp", 1, 0.5, 0.9, seed=1), row("bifp", 2, 0.04, 0.9)])
    assert beside(own, [row("lamp", 1, 0.03, 0.0)]) == SMILING.tolerance


def test_test_data_decide_who_is_ahead() -> None:
    """Two points more accurate at gaps that differ by noise alone; then the same against one of their own accuracy."""
    noise = (0.001, -0.002, 0.0, 0.002, -0.001)
    own = points([row("bifp", 2, 0.04, 0.05 + noise[seed], 0.82 + noise[-seed], seed) for seed in range(5)])
    less = [row("lamp", 1, 0.05, 0.05, 0.8, seed) for seed in range(5)]
    found = against_point(own, less)
    assert found is not None
    assert abs(found[1].mean - 0.02) < 1e-9
    assert standing(found[1], found[2]) == AHEAD
    alike = against_point(own, [row("lamp", 1, 0.05, 0.05, 0.82, seed) for seed in range(5)])
    assert alike is not None
    assert standing(alike[1], alike[2]) == ALIKE


def test_the_table_has_a_line_for_every_point_of_the_others() -> None:
    rows = [
        row(method, factor, 0.05, 0.05, accuracy, seed)
        for method, factors, accuracy in (
            ("bifp", (1, 2), 0.82),
            ("lamp", (1,), 0.8),
            ("lamp + constraint", (1, 2), 0.8),
        )
        for factor in factors
        for seed in range(3)
    ]
    _, _, *lines = same_gap_table(rows, "bifp").splitlines()
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| lamp", "–"],
        ["| lamp + constraint", "0.03"],
        ["| lamp + constraint", "0.06"],
    ]
    assert all(line.endswith("| ahead |") and "| 0.06 |" in line for line in lines)


def test_runs_at_the_own_tolerance_join_the_question_that_was_swept() -> None:
    swept = [row("bifp", 2, 0.0, 0.0), row("bifp", 0.5, 0.0, 0.0, ratio=0.95)]
    fixed = [row("lamp", 1, 0.0, 0.0), row("lamp", 1, 0.0, 0.0, ratio=0.7), row("dense", 1, 0.0, 0.0, ratio=0.0)]
    found = questions(swept, fixed)
    assert list(found) == [(SMILING, 0.9), (SMILING, 0.95)]
    assert [own["method"] for own in found[SMILING, 0.9]] == ["bifp", "lamp"]
    assert len(found[SMILING, 0.95]) == 1
