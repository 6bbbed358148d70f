"""The result as text: everything but model and optimizer, NaN as null."""

from __future__ import annotations

import json

import torch
from torch import nn

from fairprune_plugin.engine.results.result import FitResult, HistoryRow, Size
from fairprune_plugin.fairness.evaluation import Evaluation
from fairprune_plugin.fairness.verdict import Verdict


def test_json_is_strict() -> None:
    nan = float("nan")
    verdict = Verdict("equal_opportunity", "true_positive_rate[1]", nan, nan, 0.1, False, "not decidable", nan)
    evaluation = Evaluation("validation", 10, 0.9, (), (verdict,), ())
    model, size = nn.Linear(1, 1), Size(4, 100, 1e6, nan)
    result = FitResult(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        evaluation,
        evaluation,
        size,
        size,
        feasible=False,
        message="m",
        history=[HistoryRow(1, 0.5, float("inf"), 0.9, (nan,), ((0.0, 1.0),), (nan,), feasible=False, at_target=True)],
        passes=7,
        evaluation_passes=3,
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(result.to_json(), parse_constant=refuse)
    assert read["history"][0] | {"gaps": [], "training_gaps": [], "loss": 0} == {
        "step": 1,
        "progress": 0.5,
        "loss": 0,
        "accuracy": 0.9,
        "gaps": [],
        "multipliers": [[0.0, 1.0]],
        "training_gaps": [],
        "feasible": False,
        "at_target": True,
        "constraints": [],
    }
    assert read["history"][0]["gaps"] == read["history"][0]["training_gaps"] == [None]
    assert read["history"][0]["loss"] is None
    assert read["pruned"] == {"channels": 4, "params": 100, "macs": 1e6, "latency_ms": None, "memory_bytes": None}
    assert (read["passes"], read["evaluation_passes"], read["feasible"]) == (7, 3, False)
    assert read["after"]["constraints"][0]["gap"] is None
    assert "model" not in read
    assert "optimizer" not in read
