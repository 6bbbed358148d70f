"""What an evaluation says as a whole: feasible or not, by how much, and as JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyParity,
    EqualOpportunity,
)
from fairprune_plugin.fairness.evaluation import Evaluation
from fairprune_plugin.fairness.evaluator import Evaluator
from fairprune_plugin.fairness.lagrangian import Lagrangian


def evaluate(constraint: Constraint | list[Constraint] | None, batches: list[tuple[torch.Tensor, ...]]) -> Evaluation:
    evaluator = Evaluator(Lagrangian(constraint), "test")
    for logits, y, s in batches:
        evaluator.add(logits, y, s)
    return evaluator.result()


def test_excess_and_feasibility() -> None:
    logits, y, s = torch.tensor([1.0, 1.0, 1.0, -1.0]), torch.ones(4), torch.tensor([0, 0, 1, 1])
    assert evaluate(AccuracyParity(0.5), [(logits, y, s)]).feasible
    assert evaluate(AccuracyParity(0.5), [(logits, y, s)]).excess == 0
    tight = evaluate(AccuracyParity(0.2), [(logits, y, s)])
    assert not tight.feasible
    assert tight.excess == pytest.approx(0.3)
    assert evaluate(AccuracyParity(0.2), [(logits, y, torch.zeros(4))]).excess == math.inf


def test_to_dict_is_json_without_nan() -> None:
    result = evaluate(EqualOpportunity(0.1), [(torch.ones(3), torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]))])
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text)["constraints"][0]["gap"] is None
    assert json.loads(text)["feasible"] is False


def test_the_upper_bound_is_that_of_the_worst_constraint() -> None:
    y, s = torch.ones(40), torch.arange(40) % 2
    result = evaluate([AccuracyParity(0.5), AccuracyParity(0.1)], [(torch.ones(40), y, s)])
    (loose, tight) = result.verdicts
    assert loose.upper == tight.upper
    assert loose.upper_excess < tight.upper_excess == result.upper_excess
    assert evaluate(None, [(torch.ones(4), torch.ones(4), None)]).upper_excess == 0
