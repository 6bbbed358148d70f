"""Rates against plain loops over the samples, for two and for many classes, for labels, and those of a user."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fairprune_plugin.errors import ConfigError, DataError
from fairprune_plugin.fairness import rates
from fairprune_plugin.fairness.constraints import RateParity
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.rates import Rate, of_label

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


@pytest.mark.parametrize("classes", [2, 4], ids=["binary", "four-classes"])
def test_mean_loss_is_the_cross_entropy_in_nats(classes: int) -> None:
    outputs = Outputs.parse(torch.randn(30, classes), torch.randint(classes, (30,)))
    rate = rates.mean_loss()
    assert not rate.indicator
    for i, (y, value) in enumerate(zip(outputs.targets.tolist(), rate.values(outputs).tolist(), strict=True)):
        logits = [0.0, float(outputs.logits[i])] if classes == 2 else outputs.logits[i].tolist()
        assert value == pytest.approx(math.log(sum(map(math.exp, logits))) - logits[y], rel=1e-5)
    torch.testing.assert_close(rate.surrogate_values(outputs, "sigmoid").double(), rate.values(outputs))


class TestOfLabel:
    LOGITS = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, 2.0], [1.0, 3.0, -2.0], [-0.5, 1.0, 0.5]])
    TARGETS = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1]])

    @pytest.mark.parametrize("label", [0, 1, 2])
    @pytest.mark.parametrize("rate", [*MEANING, rates.mean_loss()], ids=lambda rate: rate.name)
    def test_it_is_the_rate_of_a_binary_task(self, rate: Rate, label: int) -> None:
        outputs, one = Outputs.parse(self.LOGITS, self.TARGETS), of_label(rate, label)
        alone = Outputs.parse(self.LOGITS[:, label], self.TARGETS[:, label])
        assert torch.equal(one.values(outputs), rate.values(alone))
        assert torch.equal(one.counted(outputs.targets), rate.counted(alone.targets))
        assert torch.equal(one.surrogate_values(outputs, "hinge"), rate.surrogate_values(alone, "hinge"))
        assert (one.name, one.indicator) == (f"{rate.name}@{label}", rate.indicator)


OUTPUTS = Outputs.parse(torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]]), torch.tensor([0, 1, 0, 1]))


class TestAUsersRate:
    def test_values_event_and_surrogate(self) -> None:
        rate = Rate(
            lambda out: out.predicted() == 0, lambda y: y != 1, surrogate=lambda out: out.probability(0), name="own"
        )
        assert rate.values(OUTPUTS).tolist() == [1, 0, 0, 1]
        assert rate.values(OUTPUTS).dtype == torch.float64
        assert rate.counted(OUTPUTS.targets).tolist() == [True, False, True, False]
        torch.testing.assert_close(rate.surrogate_values(OUTPUTS, "hinge"), torch.softmax(OUTPUTS.logits, 1)[:, 0])

    def test_without_an_event_everybody_counts(self) -> None:
        assert (
            Rate(lambda out: out.predicted() == 0, surrogate=lambda out: out.probability(0))
            .counted(torch.zeros(3))
            .tolist()
            == [True] * 3
        )

    def test_an_event_of_numbers_is_one_of_truth_values(self) -> None:
        rate = Rate(lambda out: out.predicted() == 0, lambda y: y, surrogate=lambda out: out.probability(0))
        assert rate.counted(OUTPUTS.targets).tolist() == [False, True, False, True]

    def test_the_numerator_is_not_differentiated(self) -> None:
        logits = torch.randn(4, 3, requires_grad=True)
        rate = Rate(lambda out: out.probability(0), surrogate=lambda out: out.probability(0), indicator=False)
        outputs = Outputs.parse(logits, OUTPUTS.targets)
        assert not rate.values(outputs).requires_grad
        assert rate.surrogate_values(outputs, "sigmoid").requires_grad

    def test_a_numerator_that_knows_surrogates_by_name_needs_none(self) -> None:
        rate = Rate(rates.Predicted(2), name="own")
        assert torch.equal(rate.surrogate_values(OUTPUTS, "linear"), (1 + OUTPUTS.margin(2)) / 2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"numerator": lambda out: out.predicted()}, "rate 'own' needs a surrogate, .*surrogate=lambda out"),
            ({"numerator": "accuracy"}, "expected numerator of rate 'own' as a function, got 'accuracy'"),
            ({"numerator": None}, "expected numerator of rate 'own' as a function, got None"),
            ({"numerator": len, "event": 1}, "expected event of rate 'own' as a function, got 1"),
            ({"numerator": len, "surrogate": "sigmoid"}, "expected surrogate of rate 'own' as a function"),
        ],
        ids=["no-surrogate", "text", "none", "event", "surrogate"],
    )
    def test_unusable_parts_are_refused_at_once(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Rate(name="own", **options)

    @pytest.mark.parametrize(
        ("part", "function", "message"),
        [
            ("numerator", lambda out: out.predicted()[:, None], r"numerator of rate 'own' .* \(4,\), got \(4, 1\)"),
            ("numerator", lambda out: out.predicted().float().mean(), r"shape \(4,\), got \(\)"),
            ("numerator", lambda out: 0.5, "got float"),
            ("numerator", lambda out: out.probability(0), "proportion .* other than 0 and 1: .*indicator=False"),
            ("event", lambda y: y[:2], r"event of rate 'own' .* \(4,\), got \(2,\)"),
            ("event", lambda y: True, "event of rate 'own' .*got bool"),
            ("surrogate", lambda out: out.logits, r"surrogate of rate 'own' .* \(4,\), got \(4, 3\)"),
        ],
        ids=["column", "scalar", "number", "not-an-indicator", "short-event", "constant-event", "surrogate"],
    )
    def test_what_it_returns_is_checked(self, part: str, function: Any, message: str) -> None:
        parts = {"numerator": lambda out: out.predicted() == 0, "surrogate": lambda out: out.probability(0)}
        rate = Rate(name="own", **{**parts, part: function})
        with pytest.raises(DataError, match=message):
            rate.values(OUTPUTS), rate.counted(OUTPUTS.targets), rate.surrogate_values(OUTPUTS, "sigmoid")

    def test_a_constraint_needs_one(self) -> None:
        for rate in (None, "accuracy", len):
            with pytest.raises(ConfigError, match="expected rate=Rate"):
                RateParity(0.1, rate=rate)  # type: ignore[arg-type]

    def test_of_a_multi_label_task_it_sees_all_labels_or_one(self) -> None:
        outputs = Outputs.parse(TestOfLabel.LOGITS, TestOfLabel.TARGETS)
        exact = Rate(
            lambda out: (out.predicted() == out.targets).all(1),
            surrogate=lambda out: out.probability(None).prod(1),
            name="exact_match",
        )
        (rate,) = RateParity(0.1, rate=exact).rates(Task(2, 3))
        assert rate.values(outputs).tolist() == [1, 0, 0, 0]
        (rate,) = RateParity(0.1, rate=rates.true_positive_rate(1), label=2).rates(Task(2, 3))
        assert rate.counted(outputs.targets).tolist() == [True, False, False, True]
        assert rate.name == "true_positive_rate[1]@2"
