"""Evaluation: rates with intervals, and verdicts that follow from every gap and its interval."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fairprune_plugin.errors import DataError, TrainingStateError
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyFloor,
    AccuracyParity,
    DegradationParity,
    EqualizedOdds,
    EqualOpportunity,
)
from fairprune_plugin.fairness.evaluation import SATISFIED, UNDECIDABLE, VIOLATED, Evaluator, Verdict, judge
from fairprune_plugin.fairness.intervals import Z95, gap_half_width, wilson
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.tracker import ConstraintTracker


def verdict(constraint: Constraint, hits: list[list[float]], totals: list[list[float]]) -> Verdict:
    tracker = ConstraintTracker(constraint, Task(2), MultiplierConfig())
    counts = tracker.new_counts()
    counts.hits, counts.totals = (torch.tensor(t, dtype=torch.float64) for t in (hits, totals))
    return judge(tracker, counts, "test")


@pytest.mark.parametrize(
    ("hits", "total", "feasible", "status"),
    [
        ((9000, 8990), 10_000, True, SATISFIED),
        ((9000, 8000), 10_000, False, VIOLATED),
        ((90, 89), 100, True, UNDECIDABLE),
        ((90, 80), 100, False, UNDECIDABLE),
        ((16, 16), 16, True, UNDECIDABLE),
    ],
    ids=["satisfied", "violated", "small-feasible", "small-infeasible", "tie-of-16-people"],
)
def test_status(hits: tuple[int, int], total: int, feasible: bool, status: str) -> None:
    out = verdict(AccuracyParity(0.05), [[float(h) for h in hits]], [[total, total]])
    assert (out.feasible, out.status) == (feasible, status)
    assert out.gap == pytest.approx(abs(hits[0] - hits[1]) / total)
    assert (out.constraint, out.rate, out.tolerance) == ("accuracy_parity", "accuracy", 0.05)


def test_interval_is_that_of_the_worst_rate() -> None:
    hits, totals = [[900.0, 850.0], [100.0, 300.0]], [[1000.0, 1000.0], [1000.0, 1000.0]]
    out = verdict(EqualizedOdds(0.1), hits, totals)
    assert out.rate == "false_positive_rate[1]"
    assert out.gap == pytest.approx(0.2)
    rates = torch.tensor(hits) / torch.tensor(totals)
    p = (rates * 1000 + 1) / 1002
    halves = gap_half_width(rates, p * (1 - p) / 1002, torch.full((2, 2), 0.5), "pairwise")
    assert out.half_width == pytest.approx(float(halves[1]), rel=1e-6)
    assert out.upper == pytest.approx(out.gap + out.half_width)


def test_satisfied_needs_every_rate_and_not_only_the_one_with_the_largest_gap() -> None:
    large = verdict(EqualizedOdds(0.05), [[900_000, 891_000], [5000, 5000]], [[1_000_000] * 2, [10_000] * 2])
    assert large.status == SATISFIED
    # The true positive rates still have the largest gap; the false positive rates now rest on ten people each.
    small = verdict(EqualizedOdds(0.05), [[900_000, 891_000], [5, 5]], [[1_000_000] * 2, [10] * 2])
    assert small.rate == "true_positive_rate[1]"
    assert (small.feasible, small.status) == (True, UNDECIDABLE)


def test_violated_by_any_rate() -> None:
    # The largest gap (.2) rests on ten people, the smaller one (.1) on many.
    out = verdict(EqualizedOdds(0.05), [[9, 7], [5000, 4000]], [[10, 10], [10_000, 10_000]])
    assert out.rate == "true_positive_rate[1]"
    assert (out.feasible, out.status) == (False, VIOLATED)


def test_undefined_gap_is_neither_feasible_nor_decidable() -> None:
    out = verdict(EqualOpportunity(0.5), [[5, 0]], [[10, 0]])
    assert math.isnan(out.gap)
    assert (out.feasible, out.status) == (False, UNDECIDABLE)
    named = verdict(EqualOpportunity(0.5, groups=3, reference=2), [[5, 5, 0]], [[10, 10, 0]])
    assert math.isnan(named.gap)
    assert not named.feasible


def test_one_undefined_rate_leaves_the_verdict_open() -> None:
    out = verdict(EqualizedOdds(0.5), [[5, 0], [5000, 5000]], [[10, 0], [10_000, 10_000]])
    assert out.rate == "false_positive_rate[1]"
    assert out.status == UNDECIDABLE
    worse = verdict(EqualizedOdds(0.1), [[5, 0], [5000, 9000]], [[10, 0], [10_000, 10_000]])
    assert worse.status == VIOLATED


def evaluate(
    constraint: Constraint | list[Constraint] | None, batches: list[tuple[torch.Tensor, ...]], **options: bool
):
    evaluator = Evaluator(Lagrangian(constraint), "test")
    for logits, y, s in batches:
        evaluator.add(logits, y, s)
    return evaluator.result(**options)


def random_batches(classes: int, groups: int = 2) -> list[tuple[torch.Tensor, ...]]:
    return [(torch.randn(n, classes), torch.randint(classes, (n,)), torch.randint(groups, (n,))) for n in (30, 7, 13)]


def test_rates_are_pooled_over_batches() -> None:
    batches = random_batches(3)
    result = evaluate(AccuracyParity(0.1, groups=("f", "m")), batches)
    logits, y, s = (torch.cat(column) for column in zip(*batches, strict=True))
    predicted = logits.argmax(1)
    assert result.samples == 50
    assert result.accuracy == pytest.approx(float((predicted == y).double().mean()))
    for group, name in enumerate(("f", "m")):
        here = s == group
        assert result.rate("accuracy", name) == pytest.approx(float((predicted == y)[here].double().mean()))
        for cls in range(3):
            selected = (predicted == cls).double()
            assert result.rate(f"selection_rate[{cls}]", name) == pytest.approx(float(selected[here].mean()))
            assert result.rate(f"true_positive_rate[{cls}]", name) == pytest.approx(
                float(selected[here & (y == cls)].mean())
            )
            assert result.rate(f"false_positive_rate[{cls}]", name) == pytest.approx(
                float(selected[here & (y != cls)].mean())
            )
    with pytest.raises(KeyError):
        result.rate("accuracy", "x")


def test_each_rate_has_its_wilson_interval_and_its_count() -> None:
    batches = random_batches(2)
    result = evaluate(AccuracyParity(0.1), batches)
    y, s = torch.cat([b[1] for b in batches]), torch.cat([b[2] for b in batches])
    for item in result.rates:
        if item.rate == "true_positive_rate[1]":
            total = int(((y == 1) & (s == int(item.group))).sum())
            assert item.samples == total
            low, high = wilson(torch.tensor(item.value * total), torch.tensor(float(total)))
            assert (item.low, item.high) == (pytest.approx(float(low)), pytest.approx(float(high)))
        assert item.low <= item.value <= item.high


def test_excess_and_feasibility() -> None:
    logits, y, s = torch.tensor([1.0, 1.0, 1.0, -1.0]), torch.ones(4), torch.tensor([0, 0, 1, 1])
    assert evaluate(AccuracyParity(0.5), [(logits, y, s)]).feasible
    assert evaluate(AccuracyParity(0.5), [(logits, y, s)]).excess == 0
    tight = evaluate(AccuracyParity(0.2), [(logits, y, s)])
    assert not tight.feasible
    assert tight.excess == pytest.approx(0.3)
    assert evaluate(AccuracyParity(0.2), [(logits, y, torch.zeros(4))]).excess == math.inf


def test_without_a_constraint_there_is_only_accuracy() -> None:
    result = evaluate(None, [(torch.tensor([1.0, -1.0]), torch.ones(2), None)])
    assert (result.accuracy, result.rates, result.verdicts) == (0.5, (), ())
    assert result.feasible
    assert result.excess == 0


def test_dense_rates_are_those_of_this_split() -> None:
    lagrangian = Lagrangian(DegradationParity(0.1))
    s = torch.tensor([0, 0, 1, 1])
    dense = Evaluator(lagrangian, "validation")
    dense.add(torch.tensor([1.0, 1.0, 1.0, -1.0]), torch.ones(4), s)  # accuracies 1 and ½
    assert dense.result(dense=True).verdicts[0].gap == 0
    pruned = Evaluator(lagrangian, "validation")
    pruned.add(torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.ones(4), s)  # ½ and ½: only group 0 lost
    assert pruned.result().verdicts[0].gap == pytest.approx(0.5)


def test_empty_and_incomplete_data_are_refused() -> None:
    with pytest.raises(DataError, match="test loader is empty"):
        evaluate(AccuracyParity(0.1), [])
    with pytest.raises(DataError, match=r"\(x, y, s\)"):
        evaluate(AccuracyParity(0.1), [(torch.zeros(2), torch.zeros(2), None)])


def test_to_dict_is_json_without_nan() -> None:
    result = evaluate(EqualOpportunity(0.1), [(torch.ones(3), torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]))])
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text)["constraints"][0]["gap"] is None
    assert json.loads(text)["feasible"] is False


class TestUpperBound:
    def test_it_is_that_of_the_rate_whose_bound_is_highest(self) -> None:
        # The true positive rates have the larger gap (.1), the false positive rates the wider interval.
        out = verdict(EqualizedOdds(0.05), [[9000, 8000], [5, 5]], [[10_000, 10_000], [10, 10]])
        assert out.rate == "true_positive_rate[1]"
        p = 6 / 12
        wide = Z95 * math.sqrt(2 * p * (1 - p) / 12)
        assert out.upper == pytest.approx(wide)
        assert out.upper > out.gap + out.half_width
        assert (out.excess, out.upper_excess) == (pytest.approx(0.05), pytest.approx(wide - 0.05))

    def test_it_is_unknown_if_any_gap_is(self) -> None:
        out = verdict(EqualizedOdds(0.5), [[5, 0], [5000, 5000]], [[10, 0], [10_000, 10_000]])
        assert math.isnan(out.upper)
        assert out.excess == 0
        assert out.upper_excess == math.inf

    def test_an_evaluation_has_that_of_its_worst_constraint(self) -> None:
        y, s = torch.ones(40), torch.arange(40) % 2
        result = evaluate([AccuracyParity(0.5), AccuracyParity(0.1)], [(torch.ones(40), y, s)])
        (loose, tight) = result.verdicts
        assert loose.upper == tight.upper
        assert loose.upper_excess < tight.upper_excess == result.upper_excess
        assert evaluate(None, [(torch.ones(4), torch.ones(4), None)]).upper_excess == 0


class TestLabels:
    LOGITS = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    TARGETS = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]])
    S = torch.tensor([0, 0, 1, 1])

    def test_accuracy_is_the_mean_over_labels_and_rates_are_per_label(self) -> None:
        result = evaluate(AccuracyParity(0.1), [(self.LOGITS, self.TARGETS, self.S)])
        assert result.samples == 4
        assert result.accuracy == pytest.approx(4 / 8)
        found = {(item.rate, item.group): item.value for item in result.rates}
        assert found["accuracy@0", "0"] == 1.0
        assert found["accuracy@0", "1"] == 0.0
        assert found["accuracy@1", "0"] == 0.5
        assert found["accuracy@1", "1"] == 0.5
        assert found["true_positive_rate[1]@1", "0"] == 0.5
        assert found["selection_rate[1]@1", "1"] == 0.5
        assert (result.verdicts[0].rate, result.verdicts[0].gap) == ("accuracy@0", 1.0)

    def test_one_label_alone(self) -> None:
        result = evaluate(AccuracyParity(0.1, label=1), [(self.LOGITS, self.TARGETS, self.S)])
        assert (result.verdicts[0].rate, result.verdicts[0].gap) == ("accuracy@1", 0.0)

    def test_everybody_alike_in_every_label_is_degenerate(self) -> None:
        logits = torch.tensor([[1.0, -1.0]]).expand(4, 2)
        assert evaluate(AccuracyParity(0.1), [(logits, self.TARGETS, self.S)]).degenerate
        assert not evaluate(AccuracyParity(0.1), [(self.LOGITS, self.TARGETS, self.S)]).degenerate


def test_every_attribute_has_a_table_of_its_own() -> None:
    logits, y = torch.randn(60, 2), torch.randint(2, (60,))
    s = {"gender": torch.randint(2, (60,)), "race": torch.randint(3, (60,))}
    gender, race = {"gender": ("f", "m")}, {"race": 3}
    constraints = [EqualOpportunity(0.1, gender), AccuracyParity(0.1, race), AccuracyParity(0.1, gender)]
    result = evaluate(constraints, [(logits, y, s)])
    right = (logits.argmax(1) == y).double()
    tables = {(item.attribute, item.group): item for item in result.rates if item.rate == "accuracy"}
    assert len(tables) == 5, "two constraints about the same groups share a table"
    for (attribute, group), item in tables.items():
        here = s[attribute] == (("f", "m").index(group) if attribute == "gender" else int(group))
        assert item.value == pytest.approx(float(right[here].mean()))
        assert item.samples == int(here.sum())
    by_race = [float(right[s["race"] == g].mean()) for g in range(3)]
    assert result.verdicts[1].gap == pytest.approx(max(by_race) - min(by_race))


def test_a_small_group_is_in_the_table_and_not_in_the_verdict() -> None:
    logits, y = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0]), torch.ones(5)
    s = torch.tensor([0, 0, 1, 1, 2])
    result = evaluate(AccuracyParity(0.1, groups=("a", "b", "c"), min_group_size=2), [(logits, y, s)])
    assert result.rate("accuracy", "c") == 0.0
    assert result.verdicts[0].gap == 0.0


def test_dense_rates_and_sizes_are_remembered_per_split() -> None:
    lagrangian = Lagrangian(AccuracyFloor(0.1, min_group_size=2))
    dense = Evaluator(lagrangian, "validation")
    dense.add(torch.ones(4), torch.ones(4), torch.tensor([0, 0, 0, 1]))
    dense.result(dense=True)
    (tracker,) = lagrangian.trackers
    assert tracker.sizes["validation"].tolist() == [[3, 1]]
    pruned = Evaluator(lagrangian, "validation")
    pruned.add(torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.ones(4), torch.tensor([0, 0, 0, 1]))
    (verdict_,) = pruned.result().verdicts
    assert verdict_.gap == pytest.approx(1 / 3), "group 1 lost everything and is too small to be constrained"
    other = Evaluator(lagrangian, "test")
    other.add(torch.ones(4), torch.ones(4), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(TrainingStateError, match="'test' split are unknown"):
        other.result()


def test_a_group_without_a_rate_keeps_the_verdict_from_being_satisfied() -> None:
    """Two thousand samples each of two groups agree; of a third one nothing is known."""
    for least, status in ((0, UNDECIDABLE), (1, SATISFIED)):
        constraint = AccuracyParity(0.1, groups=3, min_group_size=least)
        tracker = ConstraintTracker(constraint, Task(2), MultiplierConfig())
        counts = tracker.new_counts()
        counts.update(Outputs.parse(torch.ones(4000), torch.ones(4000)), torch.arange(4000) % 2)
        assert judge(tracker, counts, "test").status == status


def test_verdicts_say_what_their_groups_are_about() -> None:
    constraints = [AccuracyParity(0.1, groups={"gender": 2}), AccuracyParity(0.1, groups={"race": 3})]
    evaluator = Evaluator(Lagrangian(constraints), "test")
    evaluator.add(torch.ones(6), torch.ones(6), {"gender": torch.arange(6) % 2, "race": torch.arange(6) % 3})
    titles = [verdict.title for verdict in evaluator.result().verdicts]
    assert titles == ["accuracy_parity by gender", "accuracy_parity by race"]
