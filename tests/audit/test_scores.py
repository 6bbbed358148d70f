"""Probabilities in the place of logits: seen, announced, converted."""

from __future__ import annotations

import pytest
import torch
from audit_data import binary, multi_class

from fairprune_plugin import AccuracyParity, EqualOpportunity, audit_predictions
from fairprune_plugin.errors import ConfigError, DataError, FairPruneWarning

RUN = {"bootstrap": 100}


def test_binary_probabilities_are_noticed_and_converted() -> None:
    logits, y, s, reference = binary(80)
    constraint = EqualOpportunity(0.1)
    with pytest.warns(FairPruneWarning, match="all outputs of the model lie in .0, 1., as probabilities do"):
        noticed = audit_predictions(torch.sigmoid(logits), y, s, constraint, **RUN)
    assert any("scores='probabilities'" in note for note in noticed.warnings)
    expected = audit_predictions(logits, y, s, constraint, reference, **RUN)
    announced = audit_predictions(
        torch.sigmoid(logits), y, s, constraint, torch.sigmoid(reference), scores="probabilities", **RUN
    )
    assert announced.verdicts == expected.verdicts
    assert announced.measure("loss").value == pytest.approx(expected.measure("loss").value)


def test_class_probabilities_must_sum_to_one() -> None:
    logits, y, s = multi_class(80)
    with pytest.warns(FairPruneWarning, match="as probabilities do"):
        audit_predictions(logits.softmax(1), y, s, AccuracyParity(0.1, groups=3), **RUN)
    audit_predictions(
        logits.sigmoid(), y, s, AccuracyParity(0.1, groups=3), **RUN
    )  # in [0, 1], no sum of 1: no warning
    expected = audit_predictions(logits, y, s, AccuracyParity(0.1, groups=3), **RUN)
    got = audit_predictions(logits.softmax(1), y, s, AccuracyParity(0.1, groups=3), scores="probabilities", **RUN)
    assert got.measure("calibration_error").value == pytest.approx(expected.measure("calibration_error").value)
    with pytest.raises(DataError, match="summing to 1 over the classes"):
        audit_predictions(logits.sigmoid(), y, s, AccuracyParity(0.1, groups=3), scores="probabilities", **RUN)


def test_multi_label_probabilities_and_certain_ones() -> None:
    probabilities = torch.tensor([[0.0, 1.0], [1.0, 0.2], [0.3, 0.9], [0.6, 0.1]])
    y = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]])
    report = audit_predictions(probabilities, y, torch.tensor([0, 0, 1, 1]), None, scores="probabilities", **RUN)
    assert report.measure("accuracy", "0").value == 1.0
    assert report.measure("loss", "0").value < 0.1


def test_unknown_kind_of_scores() -> None:
    logits, y, s, _ = binary(20)
    with pytest.raises(ConfigError, match="expected scores='logits' or 'probabilities', got 'odds'"):
        audit_predictions(logits, y, s, AccuracyParity(0.1), scores="odds", **RUN)


def test_probabilities_may_be_a_rounding_error_beyond_their_limits() -> None:
    _, y, s, _ = binary(20)
    probabilities = torch.linspace(0, 1, 20)
    probabilities[-1], probabilities[0] = 1.0000001, -1e-7
    with pytest.warns(FairPruneWarning, match="as probabilities do"):
        audit_predictions(probabilities, y, s, AccuracyParity(0.1), **RUN)
    got = audit_predictions(probabilities, y, s, AccuracyParity(0.1), scores="probabilities", **RUN)
    expected = audit_predictions(probabilities.clamp(0, 1), y, s, AccuracyParity(0.1), scores="probabilities", **RUN)
    assert got.to_dict() == expected.to_dict()
    with pytest.raises(DataError, match="gave other values"):
        audit_predictions(probabilities * 1.01, y, s, AccuracyParity(0.1), scores="probabilities", **RUN)
