"""Runs read from results, whole or as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from audit_data import result

from fairprune_plugin.audit.history import Run, runs_of
from fairprune_plugin.errors import ConfigError


def test_fields_of_a_run() -> None:
    run = Run.of("a", json.loads(json.dumps(result(gap=0.03, accuracy=0.88))))
    assert (run.name, run.constraints, run.tolerances, run.split) == (
        "a",
        ("equal_opportunity",),
        (0.02,),
        "validation",
    )
    assert run.steps == tuple(range(0, 90, 10))
    assert math.isnan(run.gaps[0][0])
    assert run.gaps[0][-1] == pytest.approx(0.03 + 0.2 * math.exp(-8))
    assert run.multipliers[0][-1] == pytest.approx(0.8)
    assert (run.accuracy, run.gap, run.dense_accuracy, run.dense_gap, run.params) == (0.88, 0.03, 0.9, 0.2, 0.3)


def test_the_gap_is_that_of_the_constraint_with_the_largest_excess() -> None:
    raw = result()
    for part, gaps in (("before", (0.5, 0.6)), ("after", (0.3, 0.31))):
        raw[part]["constraints"] = [
            {"constraint": "a", "tolerance": 0.01, "gap": gaps[0]},
            {"constraint": "b", "tolerance": 0.2, "gap": gaps[1]},
        ]
    for row in raw["history"]:
        row["gaps"], row["multipliers"] = [0.1, None], [[0.1], []]
    run = Run.of("two", raw)
    assert (run.gap, run.dense_gap) == (0.3, 0.5)
    assert run.multipliers[1] == (0.0,) * 9


def test_run_without_constraints() -> None:
    raw = result()
    raw["before"]["constraints"] = raw["after"]["constraints"] = []
    run = Run.of("free", raw)
    assert (run.constraints, run.gaps, run.accuracy) == ((), (), 0.88)
    assert math.isnan(run.gap)


@pytest.mark.parametrize(
    ("history", "names"),
    [
        (None, []),
        (result(), ["run"]),
        ([result(), result()], ["run 1", "run 2"]),
        ({"BiFP": result(), "magnitude": result()}, ["BiFP", "magnitude"]),
    ],
)
def test_one_or_several(history: Any, names: list[str]) -> None:
    assert [run.name for run in runs_of(history)] == names


@pytest.mark.parametrize("history", [5, "result.json", [{"history": []}], {"a": 3}])
def test_what_is_no_result(history: Any) -> None:
    with pytest.raises(ConfigError, match="expected the history as a FitResult"):
        runs_of(history)
