"""The evaluator: rates with intervals over all batches, per attribute, group and label."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.errors import DataError, TrainingStateError
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyFloor,
    AccuracyParity,
    DegradationParity,
    EqualOpportunity,
)
from fairprune_plugin.fairness.evaluation import Evaluation
from fairprune_plugin.fairness.evaluator import Evaluator
from fairprune_plugin.fairness.intervals import wilson
from fairprune_plugin.fairness.lagrangian import Lagrangian


def evaluate(constraint: Constraint | list[Constraint] | None, batches: list[tuple[torch.Tensor, ...]]) -> Evaluation:
    evaluator = Evaluator(Lagrangian(constraint), "test")
    for logits, y, s in batches:
        evaluator.add(logits, y, s)
    return evaluator.result()


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


def test_verdicts_say_what_their_groups_are_about() -> None:
    constraints = [AccuracyParity(0.1, groups={"gender": 2}), AccuracyParity(0.1, groups={"race": 3})]
    evaluator = Evaluator(Lagrangian(constraints), "test")
    evaluator.add(torch.ones(6), torch.ones(6), {"gender": torch.arange(6) % 2, "race": torch.arange(6) % 3})
    titles = [verdict.title for verdict in evaluator.result().verdicts]
    assert titles == ["accuracy_parity by gender", "accuracy_parity by race"]
