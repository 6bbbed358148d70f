"""Per-group quantities against Fairlearn, scikit-learn and naive calibration errors; intervals against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from audit_data import binary, multi_class
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, precision_score
from torch.nn import functional as F

from fairprune_plugin import AccuracyParity, audit_predictions
from fairprune_plugin.audit import calibration, intervals
from fairprune_plugin.audit.quantities import quantities
from fairprune_plugin.fairness.outputs import Outputs

METRICS = {
    "accuracy": accuracy_score,
    "selection_rate": selection_rate,
    "true_positive_rate": true_positive_rate,
    "false_positive_rate": false_positive_rate,
    "precision": precision_score,
}


def test_binary_quantities_are_those_of_fairlearn_and_sklearn() -> None:
    logits, y, s, reference = binary(500, groups=3)
    report = audit_predictions(logits, y, s, AccuracyParity(0.1, groups=3), reference, bootstrap=100)
    for scores, field in ((logits, "value"), (reference, "reference")):
        frame = MetricFrame(metrics=METRICS, y_true=y, y_pred=(scores > 0).long(), sensitive_features=s)
        for name in METRICS:
            for group in range(3):
                assert getattr(report.measure(name, str(group)), field) == pytest.approx(frame.by_group[name][group])
            assert getattr(report.measure(name), field) == pytest.approx(frame.overall[name])
        for group in range(3):
            rows = (s == group).numpy()
            expected = log_loss(y.numpy()[rows], scores.sigmoid().numpy()[rows])
            assert getattr(report.measure("loss", str(group)), field) == pytest.approx(expected)
    item = report.measure("accuracy", "1")
    assert item.change == pytest.approx(item.value - item.reference)
    assert item.change_low < item.change < item.change_high


def test_multi_class_quantities_are_one_against_the_rest() -> None:
    logits, y, s = multi_class(400)
    report = audit_predictions(logits, y, s, AccuracyParity(0.1, groups=3), bootstrap=100)
    predicted = logits.argmax(1)
    for cls in range(3):
        frame = MetricFrame(metrics=METRICS, y_true=y == cls, y_pred=predicted == cls, sensitive_features=s)
        for name in set(METRICS) - {"accuracy"}:
            for group in range(3):
                got = report.measure(name, str(group), cls=cls).value
                assert got == pytest.approx(frame.by_group[name][group])
    for group in range(3):
        rows = s == group
        expected = log_loss(y[rows], logits.softmax(1)[rows].numpy(), labels=[0, 1, 2])
        assert report.measure("loss", str(group)).value == pytest.approx(expected)


def test_labels_are_binary_tasks_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(200, 2, generator=generator), torch.randint(0, 2, (200, 2), generator=generator)
    s = torch.arange(200) % 2
    report = audit_predictions(logits, y, s, AccuracyParity(0.5), bootstrap=100)
    for label in range(2):
        alone = audit_predictions(logits[:, label], y[:, label], s, AccuracyParity(0.5), bootstrap=100)
        for name in (*METRICS, "loss", "calibration_error"):
            got, expected = report.measure(name, "1", label=label), alone.measure(name, "1")
            assert got.value == pytest.approx(expected.value)
    mean = np.mean([report.measure("accuracy", "1", label=label).value for label in range(2)])
    assert next(m for m in report.groupings[0].measures if m.label is None).name == "accuracy"
    assert report.measure("accuracy", "1").value == pytest.approx(mean)
    assert report.measure("loss").value == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, y.float())))


def naive_ece(confidence: np.ndarray, hit: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if (b / bins < c <= (b + 1) / bins) or (b == 0 and c == 0)]
        if inside:
            total += len(inside) / len(hit) * abs(np.mean(confidence[inside]) - np.mean(hit[inside]))
    return total


@pytest.mark.parametrize("bins", [2, 10, 15])
def test_calibration_error_is_the_naive_one(bins: int) -> None:
    logits, y, _, _ = binary(300)
    outputs = Outputs.parse(logits, y)
    sums = calibration.signed_errors(outputs, bins).sum(0)
    assert float(calibration.error(sums, 300)) == pytest.approx(naive_ece(logits.sigmoid().numpy(), y.numpy(), bins))
    logits, y, _ = multi_class(300)
    outputs = Outputs.parse(logits, y)
    confidence, predicted = logits.softmax(1).max(1)
    sums = calibration.signed_errors(outputs, bins).sum(0)
    expected = naive_ece(confidence.numpy(), (predicted == y).numpy(), bins)
    assert float(calibration.error(sums, 300)) == pytest.approx(expected)


def test_confidences_on_the_edges_of_bins() -> None:
    # Exactly ½ belongs to the lower of two bins, 0 to the first one.
    logits, y = torch.tensor([0.0, 0.0, -800.0]).double(), torch.tensor([1, 0, 0])
    errors = calibration.signed_errors(Outputs.parse(logits, y), 2)
    assert errors[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert errors[:, 0].tolist() == [-0.5, 0.5, 0.0]


def test_calibration_interval_holds_the_estimate_and_the_truth() -> None:
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(4000, generator=generator).double()
    y = (torch.rand(4000, generator=generator) < p**2).long()  # overconfident by p − p²: an error of 1/6
    report = audit_predictions(torch.logit(p), y, torch.arange(4000) % 2, None, bootstrap=200)
    item = report.measure("calibration_error")
    assert item.low <= item.value <= item.high
    assert item.low < 1 / 6 < item.high
    assert item.high - item.low < 0.06


def test_undefined_quantities_are_undefined() -> None:
    logits, y = torch.tensor([-1.0, -2.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 0])
    report = audit_predictions(logits, y, torch.tensor([0, 0, 1, 1]), None, logits, bootstrap=100)
    for name in ("true_positive_rate", "precision"):
        item = report.measure(name, "0")
        assert item.samples == 0
        assert all(math.isnan(v) for v in (item.value, item.low, item.high, item.change, item.change_low))
    assert report.measure("precision", "1").value == 0.5


def test_same_model_changes_nothing() -> None:
    logits, y, s, _ = binary(100)
    report = audit_predictions(logits, y, s, AccuracyParity(0.1), logits, bootstrap=100)
    for item in report.groupings[0].measures:
        assert item.change == 0
        assert item.change_low <= 0 <= item.change_high


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 30))
def test_paired_interval_is_agresti_and_mins(gains: int, losses: int, others: int) -> None:
    n = gains + losses + others
    before = np.array([0.0] * gains + [1.0] * losses + [1.0] * others)
    after = np.array([1.0] * gains + [0.0] * losses + [1.0] * others)
    # Half an observation in each of the four cells, then the ordinary Wald interval of McNemar's difference.
    b, c, total = gains + 0.5, losses + 0.5, n + 2
    centre, error = (b - c) / total, math.sqrt((b + c) - (b - c) ** 2 / total) / total
    low, high = intervals.of_paired_change(before, after)
    assert low == pytest.approx(max(-1.0, centre - 1.959964 * error), abs=1e-6)
    assert high == pytest.approx(min(1.0, centre + 1.959964 * error), abs=1e-6)
    flipped = intervals.of_paired_change(after, before)
    assert flipped == pytest.approx((-high, -low))


def test_mean_interval_is_the_normal_one() -> None:
    values = np.array([1.0, 2.0, 4.0])
    low, high = intervals.of_mean(values)
    half = 1.959964 * values.std(ddof=1) / math.sqrt(3)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert all(math.isnan(end) for end in (*intervals.of_mean(values[:1]), *intervals.of_proportion(0, 0)))
    assert all(math.isnan(end) for end in intervals.of_paired_change(values[:0], values[:0]))


def test_order_of_the_quantities() -> None:
    logits, y, _, _ = binary(30)
    names = [item.name for item in quantities(Outputs.parse(logits, y), 15)]
    assert names == [*METRICS, "loss", "calibration_error"]
