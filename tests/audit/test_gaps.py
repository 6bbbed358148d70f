"""Gaps: those of training and of Fairlearn, with intervals that cover, also when all groups are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from audit_data import binary, multi_class
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from sklearn.metrics import accuracy_score

from fairprune_plugin import audit_predictions
from fairprune_plugin.audit.gaps import Gaps, gaps_of
from fairprune_plugin.audit.intervals import paired_variance
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
from fairprune_plugin.fairness.evaluator import Evaluator
from fairprune_plugin.fairness.intervals import Z95, centre_shift, ends
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.fairness.outputs import Outputs
from fairprune_plugin.fairness.rates import Rate

CONFIDENT = Rate(
    lambda out: out.probability(1) > 0.8, lambda y: y == 1, lambda out: out.probability(1), name="confident"
)
NOTIONS = [
    AccuracyParity(0.1, groups=3),
    AccuracyParity(0.1, groups=3, reference=2),
    DegradationParity(0.1, groups=3),
    DegradationParity(0.1, groups=3, reference="overall"),
    ExcessAccuracyGap(0.1, groups=3),
    AccuracyFloor(0.1, groups=3),
    DemographicParity(0.1, groups=3),
    EqualOpportunity(0.1, groups=3, min_group_size=74),
    EqualOpportunity(0.1, groups=3, average="macro"),
    PredictiveEquality(0.1, groups=3, reference="overall"),
    EqualizedOdds(0.1, groups=3),
    LossParity(0.1, groups=3),
    RateParity(0.1, groups=3, rate=CONFIDENT),
]


def training_verdict(constraint: Constraint, logits: torch.Tensor, y: torch.Tensor, s: torch.Tensor, dense: Any) -> Any:
    lagrangian = Lagrangian(constraint)
    for scores, is_dense in ((dense, True), (logits, False)):
        evaluator = Evaluator(lagrangian, "test")
        evaluator.add(scores, y, s)
        result = (
            evaluator.result(dense=is_dense) if is_dense or not constraint.relative_to_dense else evaluator.result()
        )
    return result.verdicts[0]


@pytest.mark.parametrize("constraint", NOTIONS, ids=lambda c: f"{c.name}-{c.reference}")
def test_gaps_are_those_that_training_judges_by(constraint: Constraint) -> None:
    logits, y, s, reference = binary(450, groups=3)
    report = audit_predictions(logits, y, s, constraint, reference, bootstrap=100)
    expected = training_verdict(constraint, logits, y, s, reference)
    verdict = report.verdicts[0]
    assert (verdict.constraint, verdict.rate) == (expected.constraint, expected.rate)
    assert verdict.gap == pytest.approx(expected.gap)
    assert verdict.low <= verdict.gap <= verdict.high
    assert verdict.critical >= 1.9599


@pytest.mark.parametrize("average", [None, "macro"])
def test_multi_class_gaps_are_those_of_training(average: str | None) -> None:
    logits, y, s = multi_class(450)
    constraint = EqualOpportunity(0.1, groups=3, average=average)
    verdict = audit_predictions(logits, y, s, constraint, bootstrap=100).verdicts[0]
    expected = training_verdict(constraint, logits, y, s, logits)
    assert (verdict.rate, verdict.gap) == (expected.rate, pytest.approx(expected.gap))
    assert len(verdict.gaps) == (1 if average else 3)


@pytest.mark.parametrize(
    ("constraint", "metric"),
    [
        (AccuracyParity(0.1, groups=4), accuracy_score),
        (DemographicParity(0.1, groups=4), selection_rate),
        (EqualOpportunity(0.1, groups=4), true_positive_rate),
        (PredictiveEquality(0.1, groups=4), false_positive_rate),
    ],
    ids=["accuracy", "selection", "tpr", "fpr"],
)
def test_gaps_are_fairlearns_differences(constraint: Constraint, metric: Any) -> None:
    logits, y, s, reference = binary(400, groups=4)
    verdict = audit_predictions(logits, y, s, constraint, reference, bootstrap=100).verdicts[0]
    differences = [
        MetricFrame(metrics=metric, y_true=y, y_pred=(scores > 0).long(), sensitive_features=s).difference()
        for scores in (logits, reference)
    ]
    assert (verdict.gap, verdict.reference_gap) == pytest.approx(tuple(differences))
    assert verdict.gap_change == pytest.approx(differences[0] - differences[1])
    assert verdict.gap_change_low <= verdict.gap_change_high


def gaps(constraint: Constraint, right: torch.Tensor, ids: torch.Tensor, seed: int = 0, replicates: int = 200) -> Gaps:
    outputs = Outputs(torch.where(right, 1.0, -1.0).double(), torch.ones(len(right)).long(), 2)
    return gaps_of(constraint, outputs, None, ids, replicates=replicates, rng=np.random.default_rng(seed))


def test_a_class_below_the_minimum_is_in_neither_the_mean_nor_its_error() -> None:
    """Perfect predictions: the bootstrap sees no spread, so that the closed form is the error."""
    y = torch.tensor([0] * 40 + [1] * 40 + [2] * 3).repeat(2)
    ids = torch.arange(2).repeat_interleave(83)
    outputs = Outputs(torch.nn.functional.one_hot(y).double(), y, 3)
    constraint = EqualOpportunity(0.1, average="macro", min_group_size=10)
    found = gaps_of(constraint, outputs, None, ids, replicates=100, rng=np.random.default_rng(0))
    p = 41 / 42  # one success and one failure added
    of_group = 2 * p * (1 - p) / 42 / 4  # mean of two classes
    assert found.comparisons[0].errors == pytest.approx([(2 * of_group) ** 0.5])


@pytest.mark.parametrize(
    ("rates", "sizes"),
    [((0.9, 0.8), (150, 60)), ((0.9, 0.9), (150, 25)), ((0.9,) * 8, (60,) * 8), ((0.9,) * 7 + (0.7,), (60,) * 8)],
    ids=["two", "two-equal", "eight-equal", "one-of-eight"],
)
def test_intervals_cover_the_true_gap(rates: tuple[float, ...], sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(len(rates)).repeat_interleave(torch.tensor(sizes))
    chance, truth = torch.tensor(rates)[ids], max(rates) - min(rates)
    constraint, covered, trials = AccuracyParity(0.1, groups=len(rates)), 0, 100
    for trial in range(trials):
        right = torch.rand(len(ids), generator=generator) < chance
        _, low, high = gaps(constraint, right, ids, trial, replicates=100).interval(0)
        covered += low <= truth + 1e-9 and high >= truth
    assert covered / trials > 0.89  # 95 % less three standard errors of this simulation


@pytest.mark.parametrize("hits", [(25, 900), (24, 990), (20, 999), (25, 998)], ids=str)
@pytest.mark.parametrize("options", [{}, {"reference": "overall"}, {"reference": 1}], ids=str)
def test_intervals_reach_as_far_as_those_of_training(hits: tuple[int, int], options: Any) -> None:
    """Those have exact coverages of their own, in tests/fairness/test_intervals.py."""
    right, ids = torch.zeros(1025, dtype=torch.bool), (torch.arange(1025) >= 25).long()
    right[: hits[0]], right[25 : 25 + hits[1]] = True, True
    logits, y = torch.where(right, 1.0, -1.0), torch.ones(1025).long()
    for constraint in (AccuracyParity(0.02, **options), EqualOpportunity(0.02, **options)):
        found = audit_predictions(logits, y, ids, constraint, bootstrap=200).verdicts[0]
        expected = training_verdict(constraint, logits, y, ids, logits)
        assert found.low <= expected.low + 1e-12
        assert found.high >= expected.high - 1e-12
        assert found.high - found.low < 1.25 * (expected.high - expected.low)
    if hits[0] == 25:
        assert found.status == "not decidable"  # Fisher's exact test: p = 0.16


def test_no_loss_among_a_few_is_no_certainty() -> None:
    """Where a model only loses, 25 samples without a loss have a chance of 11 % at a true loss of 8.5 %."""
    dense, pruned, ids = torch.full((1025,), 2.0), torch.full((1025,), 2.0), (torch.arange(1025) >= 25).long()
    pruned[25:110] = -1
    constraint = DegradationParity(0.005)
    dense[0] = pruned[0] = -1  # both wrong: not every prediction is one class
    verdict = audit_predictions(pruned, torch.ones(1025).long(), ids, constraint, dense, bootstrap=200).verdicts[0]
    assert verdict.gap == pytest.approx(0.085)
    assert (verdict.status, verdict.low) == ("not decidable", 0.0)


@pytest.mark.parametrize("n", [10, 25, 40, 100])
def test_exact_coverage_of_changes(n: int) -> None:
    gains, losses = torch.cartesian_prod(torch.arange(n + 1), torch.arange(n + 1)).double().unbind(dim=1)
    gains, losses = (part[gains + losses <= n] for part in (gains, losses))
    totals = torch.full_like(gains, n)
    change = (gains - losses) / n
    parts = zip((gains - losses).tolist(), (gains + losses).tolist(), strict=True)
    variances = torch.tensor([paired_variance(total, squares, n, discordant=2) for total, squares in parts]).double()
    one = torch.ones(len(change), 1, 1).double()
    shift = centre_shift(one, *(part[:, None, None] for part in (change, totals, variances)), middle=0.0)
    low, high = ends(change, change + shift, Z95 * variances.sqrt(), two_sided=False)
    ways = (totals + 1).lgamma() - (gains + 1).lgamma() - (losses + 1).lgamma() - (n - gains - losses + 1).lgamma()
    for gain, loss in ((0, 0.02), (0, 0.04), (0, 0.1), (0, 0.2), (0.02, 0.05), (0.05, 0.05), (0.01, 0.1)):
        same = 1 - gain - loss
        chances = ways.exp() * gain**gains * loss**losses * same ** (n - gains - losses)
        covered = (low <= gain - loss + 1e-12) & (high >= gain - loss - 1e-12)
        assert float((chances * covered).sum()) >= 0.93, (gain, loss)


def test_more_groups_need_a_larger_critical_value() -> None:
    right = torch.rand(1400, generator=torch.Generator().manual_seed(0)) < 0.8
    few = gaps(AccuracyParity(0.1, groups=2), right, torch.arange(1400) % 2, replicates=1000)
    many = gaps(AccuracyParity(0.1, groups=14), right, torch.arange(1400) % 14, replicates=1000)
    assert few.critical == pytest.approx(1.96, abs=0.15)
    assert 3.0 < many.critical < 3.8  # Tukey's studentised range of 14 groups over √2 is 3.4


def test_a_tie_of_few_is_not_certain() -> None:
    right, ids = torch.ones(32, dtype=torch.bool), torch.arange(32) % 2
    gap, low, high = gaps(AccuracyParity(0.05), right, ids).interval(0)
    assert (gap, low) == (0.0, 0.0)
    assert high > 0.1


def test_identical_models_have_no_certain_change_in_a_small_group() -> None:
    logits, y, s, _ = binary(40)
    verdict = audit_predictions(logits, y, s, DegradationParity(0.01), logits, bootstrap=100).verdicts[0]
    assert verdict.gap == 0
    assert verdict.status == "not decidable"


def test_order_of_the_groups_does_not_matter() -> None:
    logits, y, s, _ = binary(300, groups=3)
    constraint = EqualizedOdds(0.1, groups=3)
    first = audit_predictions(logits, y, s, constraint, bootstrap=1000).verdicts[0]
    second = audit_predictions(logits, y, 2 - s, constraint, bootstrap=1000).verdicts[0]
    assert first.gap == pytest.approx(second.gap)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.02)


def test_change_of_the_gap_is_paired() -> None:
    logits, y, s, _ = binary(800)
    nearly = logits.clone()
    nearly[:4] *= -1
    verdict = audit_predictions(logits, y, s, AccuracyParity(0.1), nearly, bootstrap=500).verdicts[0]
    assert verdict.gap_change_high - verdict.gap_change_low < 0.03 < verdict.high - verdict.low
