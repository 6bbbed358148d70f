"""Every notion against Fairlearn, scikit-learn or its own definition: other code, other data structures, same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fairlearn.metrics as fm
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, recall_score
from torch import Tensor

from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyFloor,
    AccuracyParity,
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    ExcessAccuracyGap,
    LossParity,
    PredictiveEquality,
    RateParity,
)
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.rates import Rate
from measured import counted, gaps, random_outputs

BINARY, FOUR_CLASSES, THREE_LABELS = Task(2), Task(4), Task(2, 3)


def difference(metric: Callable[..., Any]) -> Callable[..., float]:
    def of(y_true: Any, y_pred: Any, *, sensitive_features: Any, method: str) -> float:
        frame = fm.MetricFrame(
            metrics=metric, y_true=y_true, y_pred=y_pred, sensitive_features=np.asarray(sensitive_features)
        )
        return float(frame.difference(method=method))

    return of


FAIRLEARN: dict[type[Constraint], Callable[..., float]] = {
    AccuracyParity: difference(accuracy_score),
    DemographicParity: fm.demographic_parity_difference,
    EqualOpportunity: fm.equal_opportunity_difference,
    PredictiveEquality: fm.false_positive_rate_difference,
    EqualizedOdds: fm.equalized_odds_difference,
}
METHODS = {"between_groups": "pairwise", "to_overall": "overall"}
PER_CLASS = [notion for notion in FAIRLEARN if notion.per_class]


def groups_of(number: int, samples: int) -> Tensor:
    return torch.randint(number, (samples,))


@pytest.mark.parametrize("groups", [2, 3, 7, 14])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("notion", FAIRLEARN, ids=lambda notion: notion.name)
def test_binary(notion: type[Constraint], method: str, groups: int) -> None:
    outputs, s = random_outputs(BINARY, 60 * groups), groups_of(groups, 60 * groups)
    ours = gaps(notion(0.1, groups=groups, reference=METHODS[method]), outputs, s)
    theirs = FAIRLEARN[notion](outputs.targets, outputs.predicted(), sensitive_features=s, method=method)
    assert float(ours.max()) == pytest.approx(theirs, abs=1e-12)
    assert theirs > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("notion", PER_CLASS, ids=lambda notion: notion.name)
def test_every_class_against_the_rest(notion: type[Constraint], method: str) -> None:
    outputs, s = random_outputs(FOUR_CLASSES, 400), groups_of(3, 400)
    ours = gaps(notion(0.1, groups=3, reference=METHODS[method]), outputs, s).reshape(4, -1)
    for cls in range(4):
        theirs = FAIRLEARN[notion](
            outputs.targets == cls, outputs.predicted() == cls, sensitive_features=s, method=method
        )
        assert float(ours[cls].max()) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("notion", FAIRLEARN, ids=lambda notion: notion.name)
def test_every_label_is_a_task_of_its_own(notion: type[Constraint], method: str) -> None:
    outputs, s = random_outputs(THREE_LABELS, 300), groups_of(3, 300)
    ours = gaps(notion(0.1, groups=3, reference=METHODS[method]), outputs, s).reshape(3, -1)
    for label in range(3):
        y, predicted = outputs.targets[:, label], outputs.predicted()[:, label]
        theirs = FAIRLEARN[notion](y, predicted, sensitive_features=s, method=method)
        assert float(ours[label].max()) == pytest.approx(theirs, abs=1e-12)
        alone = gaps(notion(0.1, groups=3, reference=METHODS[method], label=label), outputs, s)
        assert torch.equal(alone, ours[label])


@pytest.mark.parametrize("notion", [EqualOpportunity, PredictiveEquality, EqualizedOdds, DemographicParity, LossParity])
def test_an_undefined_rate_is_not_a_rate_of_zero(notion: type[Constraint]) -> None:
    """Fairlearn gives 0 to a group without positives, and a gap of up to 1 with it. Here such a group has no rate: it is
    left out of the gap of the others, and a gap of one group alone is undefined."""
    y = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])  # group 2 has nobody with label 1
    predicted = torch.tensor([1, 1, 0, 0, 0, 1, 0, 0])
    s = torch.tensor([0, 1, 1, 0, 1, 0, 2, 2])
    outputs = Outputs.parse(predicted * 2.0 - 1, y)
    found = gaps(notion(0.1, groups=3, reference="pairwise"), outputs, s)
    without = gaps(notion(0.1, groups=2, reference="pairwise"), Outputs.parse(outputs.logits[:6], y[:6]), s[:6])
    if notion in (EqualOpportunity, EqualizedOdds):
        theirs = fm.equal_opportunity_difference(y, predicted, sensitive_features=s)
        assert (theirs, float(found[0])) == (1.0, 0.5)
        assert float(found[0]) == float(without[0])
    else:
        assert not found.isnan().any()
    tracker, counts = counted(notion(0.1, groups=3), outputs, s)
    values, known = tracker.compared(counts, "train"), counts.totals > 0
    assert torch.equal(values.isnan(), ~known)
    alone = gaps(notion(0.1, groups=3), Outputs.parse(outputs.logits[6:], y[6:]), s[6:])
    assert alone.isnan().all()


class TestLoss:
    def test_binary_is_fairlearns_frame_of_log_loss(self) -> None:
        outputs, s = random_outputs(BINARY, 300), groups_of(4, 300)
        frame = fm.MetricFrame(
            metrics=lambda y, p: log_loss(y, p, labels=[0, 1]),
            y_true=outputs.targets.numpy(),
            y_pred=torch.sigmoid(outputs.logits).numpy(),
            sensitive_features=s.numpy(),
        )
        for method, reference in METHODS.items():
            ours = gaps(LossParity(0.1, groups=4, reference=reference), outputs, s)
            assert ours.tolist() == pytest.approx([float(frame.difference(method=method))], abs=1e-9)
        # Tran et al. compare with everybody: the default.
        assert LossParity(0.1).reference == "overall"

    @pytest.mark.parametrize("task", [FOUR_CLASSES, THREE_LABELS], ids=str)
    def test_more_classes_and_labels(self, task: Task) -> None:
        outputs, s = random_outputs(task, 300), groups_of(3, 300)
        if task.num_labels is None:
            probabilities = torch.softmax(outputs.logits, 1)

            def loss(here: Tensor) -> float:
                return float(log_loss(outputs.targets[here], probabilities[here], labels=range(4)))

            expected = [[loss(s == g) for g in range(3)]]
        else:
            p = torch.sigmoid(outputs.logits)
            expected = [
                [log_loss(outputs.targets[s == g, i], p[s == g, i], labels=[0, 1]) for g in range(3)] for i in range(3)
            ]
        ours = gaps(LossParity(0.1, groups=3, reference="pairwise"), outputs, s)
        assert ours.tolist() == pytest.approx([max(row) - min(row) for row in expected], abs=1e-9)

    def test_tolerances_above_one_nat(self) -> None:
        assert LossParity(3.5).tolerance == 3.5


class TestAgainstTheDenseModel:
    """R_g = A(dense, g) − A(pruned, g), from the definitions, in numpy."""

    @staticmethod
    def data(task: Task) -> tuple[Outputs, Outputs, Tensor, np.ndarray, float]:
        dense, s = random_outputs(task, 500), groups_of(5, 500)
        pruned = Outputs(torch.randn_like(dense.logits), dense.targets, dense.num_classes, dense.num_labels)
        lost = (dense.predicted() == dense.targets).double() - (pruned.predicted() == pruned.targets).double()
        per_group = np.array([lost[s == g].numpy().mean(axis=0) for g in range(5)])
        return dense, pruned, s, per_group, lost.numpy().mean(axis=0)

    @pytest.mark.parametrize("task", [BINARY, FOUR_CLASSES, THREE_LABELS], ids=str)
    def test_degradation_parity(self, task: Task) -> None:
        dense, pruned, s, lost, _ = self.data(task)
        ours = gaps(DegradationParity(0.1, groups=5), pruned, s, dense=dense)
        np.testing.assert_allclose(ours, np.atleast_1d(np.ptp(lost, axis=0)), atol=1e-12)

    @pytest.mark.parametrize("task", [BINARY, FOUR_CLASSES, THREE_LABELS], ids=str)
    def test_excess_accuracy_gap_is_ceags(self, task: Task) -> None:
        """ψ_g = R_g − R; the constraint is ψ_g ≤ ε for every g and says nothing of groups that gained."""
        dense, pruned, s, lost, overall = self.data(task)
        constraint = ExcessAccuracyGap(0.01, groups=5)
        psi = np.atleast_2d((lost - overall).T)  # (R, G)
        np.testing.assert_allclose(gaps(constraint, pruned, s, dense=dense), psi.max(axis=1), atol=1e-12)
        tracker, counts = counted(constraint, pruned, s, dense=dense)
        violation = tracker.strict_violation(counts, "train")
        assert violation.shape == (1, len(psi), 5)
        np.testing.assert_allclose(violation[0], psi - 0.01, atol=1e-12)

    @pytest.mark.parametrize("task", [BINARY, FOUR_CLASSES, THREE_LABELS], ids=str)
    def test_accuracy_floor_looks_at_each_group_alone(self, task: Task) -> None:
        dense, pruned, s, lost, _ = self.data(task)
        tracker, counts = counted(AccuracyFloor(0.02, groups=5), pruned, s, dense=dense)
        np.testing.assert_allclose(tracker.gaps(counts, "train"), np.atleast_1d(lost.max(axis=0)), atol=1e-12)
        violation = tracker.strict_violation(counts, "train")
        np.testing.assert_allclose(violation[0], np.atleast_2d(lost.T) - 0.02, atol=1e-12)

    def test_a_floor_is_met_by_gains_however_unequal(self) -> None:
        y, s = torch.ones(4), torch.tensor([0, 0, 1, 1])
        dense, better = (
            Outputs.parse(torch.tensor([-1.0, 1, -1, 1]), y),
            Outputs.parse(torch.tensor([1.0, 1, -1, 1]), y),
        )
        assert float(gaps(AccuracyFloor(0.0), better, s, dense=dense)[0]) == 0
        assert float(gaps(DegradationParity(0.0), better, s, dense=dense)[0]) == 0.5
        assert float(gaps(ExcessAccuracyGap(0.0), better, s, dense=dense)[0]) == 0.25

    def test_a_floor_holds_for_one_group_alone(self) -> None:
        """Nobody is compared with anybody: one known group is enough."""
        y, s = torch.ones(2), torch.tensor([1, 1])
        dense, worse = Outputs.parse(torch.ones(2), y), Outputs.parse(torch.tensor([1.0, -1.0]), y)
        assert float(gaps(AccuracyFloor(0.1), worse, s, dense=dense)[0]) == 0.5


class TestMacro:
    def test_recall_is_scikit_learns_macro_average(self) -> None:
        outputs, s = random_outputs(FOUR_CLASSES, 400), groups_of(3, 400)
        ours = gaps(EqualOpportunity(0.1, groups=3, average="macro"), outputs, s)
        metric = lambda y, p: recall_score(y, p, average="macro")  # noqa: E731
        theirs = difference(metric)(outputs.targets, outputs.predicted(), sensitive_features=s, method="between_groups")
        assert ours.tolist() == pytest.approx([theirs], abs=1e-12)

    def test_of_two_classes_is_the_balanced_accuracy(self) -> None:
        outputs, s = random_outputs(BINARY, 300), groups_of(3, 300)
        ours = gaps(EqualOpportunity(0.1, groups=3, average="macro"), outputs, s)
        theirs = difference(balanced_accuracy_score)(
            outputs.targets, outputs.predicted(), sensitive_features=s, method="between_groups"
        )
        assert ours.tolist() == pytest.approx([theirs], abs=1e-12)

    def test_of_labels_is_the_mean_over_labels(self) -> None:
        outputs, s = random_outputs(THREE_LABELS, 300), groups_of(2, 300)
        y, predicted = outputs.targets.numpy(), outputs.predicted().numpy()
        recalls = [recall_score(y[s == g], predicted[s == g], average="macro") for g in range(2)]
        selected = [predicted[s == g].mean() for g in range(2)]
        for notion, values in ((EqualOpportunity, recalls), (DemographicParity, selected)):
            ours = gaps(notion(0.1, average="macro"), outputs, s)
            assert ours.tolist() == pytest.approx([abs(values[0] - values[1])], abs=1e-12)

    def test_a_class_that_one_group_lacks_is_left_out_for_all(self) -> None:
        outputs, s = random_outputs(FOUR_CLASSES, 400), groups_of(3, 400)
        keep = ~((outputs.targets == 2) & (s == 1))
        outputs, s = Outputs(outputs.logits[keep], outputs.targets[keep], 4), s[keep]
        metric = lambda y, p: recall_score(y, p, average="macro", labels=[0, 1, 3])  # noqa: E731
        theirs = difference(metric)(outputs.targets, outputs.predicted(), sensitive_features=s, method="between_groups")
        ours = gaps(EqualOpportunity(0.1, groups=3, average="macro"), outputs, s)
        assert ours.tolist() == pytest.approx([theirs], abs=1e-12)
        # A group that nobody has met does not take every class away.
        more = gaps(EqualOpportunity(0.1, groups=4, average="macro"), outputs, s)
        assert torch.equal(more, ours)

    def test_equalized_odds_averages_both_rates_apart(self) -> None:
        outputs, s = random_outputs(FOUR_CLASSES, 400), groups_of(2, 400)
        both = gaps(EqualizedOdds(0.1, average="macro"), outputs, s)
        tpr = gaps(EqualOpportunity(0.1, average="macro"), outputs, s)
        fpr = gaps(PredictiveEquality(0.1, average="macro"), outputs, s)
        assert torch.equal(both, torch.cat([tpr, fpr]))
        assert EqualizedOdds(0.1, average="macro").families(FOUR_CLASSES)[0] == [
            "true_positive_rate[macro]",
            "false_positive_rate[macro]",
        ]


def test_a_users_rate_is_fairlearns_metric() -> None:
    """The false omission-like rate P(ŷ = 2 | y = 0): no notion of ours."""
    outputs, s = random_outputs(FOUR_CLASSES, 400), groups_of(3, 400)
    rate = Rate(
        lambda out: out.predicted() == 2, lambda y: y == 0, surrogate=lambda out: out.probability(2), name="zero_as_two"
    )

    def metric(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        return float((y_pred[y_true == 0] == 2).mean())

    theirs = difference(metric)(
        outputs.targets.numpy(), outputs.predicted().numpy(), sensitive_features=s, method="to_overall"
    )
    frame = fm.MetricFrame(
        metrics=metric,
        y_true=outputs.targets.numpy(),
        y_pred=outputs.predicted().numpy(),
        sensitive_features=s.numpy(),
    )
    tracker, counts = counted(RateParity(0.1, groups=3, rate=rate, reference="overall"), outputs, s)
    assert tracker.compared(counts, "train")[0].tolist() == pytest.approx(frame.by_group.tolist())
    assert tracker.gaps(counts, "train").tolist() == pytest.approx([theirs])
    assert not math.isclose(theirs, 0)
