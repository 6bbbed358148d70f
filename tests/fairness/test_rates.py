"""Rates against plain loops over the samples, for two and for many classes."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.fairness import rates
from fairprune_plugin.fairness.outputs import Outputs
from fairprune_plugin.fairness.rates import Rate

# rate → (does the sample count?, is its decision positive?), from label and prediction
MEANING = {
    rates.accuracy(): (lambda y: True, lambda y, p: p == y),
    rates.selection_rate(1): (lambda y: True, lambda y, p: p == 1),
    rates.selection_rate(0): (lambda y: True, lambda y, p: p == 0),
    rates.true_positive_rate(1): (lambda y: y == 1, lambda y, p: p == 1),
    rates.true_positive_rate(0): (lambda y: y == 0, lambda y, p: p == 0),
    rates.false_positive_rate(1): (lambda y: y != 1, lambda y, p: p == 1),
}


@pytest.mark.parametrize("classes", [2, 4], ids=["binary", "four-classes"])
@pytest.mark.parametrize("rate", MEANING, ids=lambda rate: rate.name)
def test_condition_and_decision(rate: Rate, classes: int) -> None:
    counts, decides = MEANING[rate]
    outputs = Outputs.parse(torch.randn(60, classes), torch.randint(classes, (60,)))
    labels, predictions = outputs.targets.tolist(), outputs.predicted().tolist()
    assert rate.counted(outputs.targets).tolist() == [counts(y) for y in labels]
    assert rate.values(outputs).tolist() == [decides(y, p) for y, p in zip(labels, predictions, strict=True)]


@pytest.mark.parametrize("rate", MEANING, ids=lambda rate: rate.name)
@pytest.mark.parametrize("surrogate", ["sigmoid", "logistic", "hinge", "linear"])
@pytest.mark.parametrize("classes", [2, 4], ids=["binary", "four-classes"])
def test_surrogate_is_on_the_same_side_as_the_decision(rate: Rate, surrogate: str, classes: int) -> None:
    outputs = Outputs.parse(torch.randn(60, classes), torch.randint(classes, (60,)))
    at_boundary = {"sigmoid": 0.5, "logistic": 0.0, "hinge": 0.0, "linear": 0.5}[surrogate]
    assert torch.equal(rate.surrogate_values(outputs, surrogate) > at_boundary, rate.values(outputs))


def test_names_tell_the_class() -> None:
    assert [rate.name for rate in MEANING] == [
        "accuracy",
        "selection_rate[1]",
        "selection_rate[0]",
        "true_positive_rate[1]",
        "true_positive_rate[0]",
        "false_positive_rate[1]",
    ]
