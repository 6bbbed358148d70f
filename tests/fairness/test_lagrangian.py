"""The Lagrangian: task loss plus penalties, who drives λ, and every refusal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fairprune_plugin.errors import ConfigError, DataError, FairPruneWarning, TrainingStateError
from fairprune_plugin.fairness.constraints import (
    AccuracyParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    LossParity,
)
from fairprune_plugin.fairness.lagrangian import LOOK_AFTER, VALIDATION, Lagrangian, cross_entropy
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Task


def batch(classes: int = 2, samples: int = 40, groups: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = torch.randn(samples, classes, requires_grad=True)
    return logits, torch.randint(classes, (samples,)), torch.randint(groups, (samples,))


def test_cross_entropy_is_the_same_for_every_binary_layout() -> None:
    log_odds, y = torch.randn(20), torch.randint(2, (20,))
    two = torch.stack([torch.zeros(20), log_odds], 1)
    expected = F.binary_cross_entropy_with_logits(log_odds, y.float())
    for logits in (log_odds, log_odds[:, None], two):
        for targets in (y, y[:, None], y.float()):
            torch.testing.assert_close(cross_entropy(logits, targets), expected)
    many = torch.randn(20, 5)
    torch.testing.assert_close(cross_entropy(many, y), F.cross_entropy(many, y))


@pytest.mark.parametrize("s", [None, torch.zeros(40)], ids=["without-s", "with-s"])
def test_without_a_constraint_it_is_the_task_loss(s: torch.Tensor | None) -> None:
    logits, y, _ = batch()
    lagrangian = Lagrangian(None)
    assert torch.equal(lagrangian.loss(logits, y, s), F.cross_entropy(logits, y))
    assert lagrangian.groupings == ()
    lagrangian.dual_step_from_training()


def test_with_zero_multipliers_it_is_the_task_loss() -> None:
    logits, y, s = batch()
    torch.testing.assert_close(Lagrangian(AccuracyParity(0.1)).loss(logits, y, s), F.cross_entropy(logits, y))


def test_a_users_task_loss() -> None:
    logits, y, s = batch()
    lagrangian = Lagrangian(AccuracyParity(0.1), task_loss=lambda out, t: out.square().mean())
    torch.testing.assert_close(lagrangian.loss(logits, y, s), logits.square().mean())


def test_loss_is_task_loss_plus_every_penalty_and_so_is_its_gradient() -> None:
    logits, y, s = batch(groups=3)
    constraints = [EqualizedOdds(0.05, groups=3), DemographicParity(0.1, groups=3, reference="overall")]
    lagrangian = Lagrangian(constraints)
    lagrangian.bind(Task(2))
    singles = [Lagrangian(constraint) for constraint in constraints]
    expected = F.cross_entropy(logits, y)
    for tracker, single in zip(lagrangian.trackers, singles, strict=True):
        single.bind(Task(2))
        value = torch.rand(tracker.multipliers.shape)
        tracker.multipliers.set(value)
        single.trackers[0].multipliers.set(value)
        expected = expected + single.loss(logits, y, s) - F.cross_entropy(logits, y)
    loss = lagrangian.loss(logits, y, s)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_the_literal_rule_adds_the_signed_gap_with_weight_one() -> None:
    logits, y, s = batch()
    lagrangian = Lagrangian(AccuracyParity(0.5), config=MultiplierConfig(rule="paper"))
    log_odds = logits[:, 1] - logits[:, 0]
    u = torch.sigmoid(log_odds * (2 * y - 1))
    expected = F.cross_entropy(logits, y) + u[s == 1].mean() - u[s == 0].mean()
    loss = lagrangian.loss(logits, y, s)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_a_step_along_the_gradient_shrinks_the_gap() -> None:
    """The sign of the whole chain: violated constraint → multiplier → gradient → smaller gap."""
    torch.manual_seed(3)
    s = torch.arange(400) % 2
    logits = (torch.randn(400) * 0.5 + 0.4 * (2 * s - 1)).requires_grad_()
    lagrangian = Lagrangian(
        DemographicParity(0.02), config=MultiplierConfig(lr=0.2, window=1), task_loss=lambda out, t: 0 * out.sum()
    )
    optimizer = torch.optim.SGD([logits], lr=5.0)

    def gap() -> float:
        selected = (logits.detach() > 0).double()
        return float((selected[s == 1].mean() - selected[s == 0].mean()).abs())

    first = gap()
    for _ in range(60):
        optimizer.zero_grad()
        lagrangian.loss(logits, torch.zeros(400), s).backward()
        optimizer.step()
        lagrangian.dual_step_from_training()
    assert first > 0.4
    assert gap() < first / 2


def test_who_moves_the_multipliers() -> None:
    for driver, moves in (("train", True), (VALIDATION, False)):
        lagrangian = Lagrangian(AccuracyParity(0.0), driver=driver)
        lagrangian.loss(torch.tensor([1.0, -1.0]), torch.ones(2), torch.tensor([0, 1]))
        lagrangian.dual_step_from_training()
        assert bool(lagrangian.trackers[0].multipliers.value.any()) is moves


def test_a_group_that_is_never_met_is_warned_of_once() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1, groups=("a", "b", "c")))
    batch = (torch.zeros(3), torch.zeros(3), torch.tensor([0, 0, 2]))
    for _ in range(LOOK_AFTER - 1):
        lagrangian.loss(*batch)
    with pytest.warns(FairPruneWarning, match="accuracy of group b"):
        lagrangian.loss(*batch)
    for _ in range(LOOK_AFTER + 1):
        lagrangian.loss(*batch)  # warnings are errors in this suite


def test_a_batch_with_a_nan_loss_leaves_the_counts_alone() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1))
    lagrangian.loss(torch.zeros(2), torch.zeros(2), torch.tensor([0, 1]))
    before = lagrangian.trackers[0].counts.state_dict()
    assert not torch.isfinite(lagrangian.loss(torch.full((2,), float("nan")), torch.zeros(2), torch.tensor([0, 1])))
    after = lagrangian.trackers[0].counts.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


BAD_GROUPS: dict[str, Any] = {
    "missing": None,
    "too-short": torch.zeros(3),
    "two-columns": torch.zeros(4, 2),
    "fractions": torch.tensor([0.0, 0.5, 1.0, 1.0]),
    "nan": torch.tensor([0.0, float("nan"), 1.0, 1.0]),
    "complex": torch.zeros(4, dtype=torch.complex64),
    "negative": torch.tensor([0, 1, -1, 0]),
    "undeclared": torch.tensor([0, 1, 2, 0]),
    "list-of-undeclared-names": ["a", "b", "a", "b"],
    "number": 1,
    "other-device": torch.zeros(4, device="meta"),
}


@pytest.mark.parametrize("s", BAD_GROUPS.values(), ids=BAD_GROUPS.keys())
def test_unusable_sensitive_attributes_are_refused_before_anything_is_counted(s: Any) -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1))
    with pytest.raises(DataError):
        lagrangian.loss(torch.zeros(4), torch.zeros(4), s)
    assert lagrangian.batches == 0
    assert lagrangian.trackers == []


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("target", [-1.0, 3.0, 0.5], ids=["negative", "too-high", "fraction"])
def test_unusable_targets_are_a_data_error_and_not_one_of_the_task_loss(classes: int, target: float) -> None:
    with pytest.raises(DataError, match="targets"):
        Lagrangian(AccuracyParity(0.1)).loss(torch.zeros(2, classes), torch.tensor([0.0, target]), torch.tensor([0, 1]))


def test_each_constraint_has_groups_of_its_own() -> None:
    gender, race = {"gender": ("f", "m")}, {"race": 3}
    constraints = [AccuracyParity(0.1, groups=gender), EqualOpportunity(0.1, groups=race), AccuracyParity(0.2, gender)]
    lagrangian = Lagrangian(constraints)
    assert [groups.names for groups in lagrangian.groupings] == [("f", "m"), ("0", "1", "2")]
    s = {"gender": torch.tensor([0, 1, 1]), "race": torch.tensor([2, 0, 1])}
    batch = lagrangian.parse(torch.zeros(3), torch.zeros(3), s)
    assert [ids.tolist() for ids in batch.ids] == [[0, 1, 1], [2, 0, 1], [0, 1, 1]]


def test_something_else_than_a_constraint_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a constraint such as"):
        Lagrangian(["equal_opportunity"])  # type: ignore[list-item]


def test_a_change_of_the_number_of_classes_is_refused() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1))
    lagrangian.loss(torch.zeros(2, 3), torch.zeros(2), torch.tensor([0, 1]))
    with pytest.raises(TrainingStateError, match="2 classes now and had 3 classes before"):
        lagrangian.loss(torch.zeros(2, 2), torch.zeros(2), torch.tensor([0, 1]))


def test_state_round_trip() -> None:
    one = Lagrangian([EqualOpportunity(0.0), DemographicParity(0.0)])
    other = Lagrangian([EqualOpportunity(0.0), DemographicParity(0.0)])
    for _ in range(3):
        one.loss(*batch())
        one.dual_step_from_training()
    other.load_state_dict(one.state_dict())
    logits, y, s = batch()
    assert torch.equal(one.loss(logits, y, s), other.loss(logits, y, s))
    assert one.batches == other.batches
    fresh = Lagrangian(EqualOpportunity(0.0))
    fresh.load_state_dict(Lagrangian(EqualOpportunity(0.0)).state_dict())
    assert fresh.trackers == []


class TestSeveralAttributes:
    """Each constraint sees the groups it is about, in one and the same batch."""

    GENDER, RACE = {"gender": ("f", "m")}, {"race": 3}

    @staticmethod
    def batch(n: int = 60) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        s = {"gender": torch.randint(2, (n,)), "race": torch.randint(3, (n,))}
        return torch.randn(n, 2, requires_grad=True), torch.randint(2, (n,)), s

    def test_the_loss_is_the_sum_of_single_ones(self) -> None:
        logits, y, s = self.batch()
        specs = [
            (EqualizedOdds(0.05, self.GENDER), s["gender"], 2),
            (DemographicParity(0.1, self.RACE, reference="overall"), s["race"], 3),
            (AccuracyParity(0.1, {**self.GENDER, **self.RACE}), s["gender"] * 3 + s["race"], 6),
        ]
        lagrangian = Lagrangian([constraint for constraint, _, _ in specs])
        lagrangian.bind(Task(2))
        expected = F.cross_entropy(logits, y)
        for tracker, (constraint, ids, groups) in zip(lagrangian.trackers, specs, strict=True):
            value = torch.rand(tracker.multipliers.shape)
            assert value.shape[2] == groups
            tracker.multipliers.set(value)
            single = Lagrangian(dataclasses.replace(constraint, groups=groups))
            single.bind(Task(2))
            single.trackers[0].multipliers.set(value)
            expected = expected + single.loss(logits, y, ids) - F.cross_entropy(logits, y)
        torch.testing.assert_close(lagrangian.loss(logits, y, s), expected)
        for tracker, (_, ids, groups) in zip(lagrangian.trackers, specs, strict=True):
            assert tracker.counts.totals[0].sum() <= 60
            if groups != 2:
                assert tracker.counts.totals[0].tolist() == ids.bincount(minlength=groups).tolist()

    def test_a_missing_attribute_is_named(self) -> None:
        logits, y, s = self.batch()
        with pytest.raises(DataError, match=r"expected 'race' among the batch's sensitive attributes, .* 'gender'"):
            Lagrangian([AccuracyParity(0.1, self.RACE)]).loss(logits, y, {"gender": s["gender"]})

    def test_floors_come_along(self) -> None:
        lagrangian = Lagrangian(EqualOpportunity(0.1, self.GENDER, floor=0.02))
        assert [constraint.name for constraint in lagrangian.constraints] == ["equal_opportunity", "accuracy_floor"]
        logits, y, s = self.batch()
        with pytest.raises(TrainingStateError, match="accuracy_floor compares with the dense model"):
            lagrangian.loss(logits, y, s)


class TestDiscovery:
    def test_groups_must_be_known_before_the_first_batch(self) -> None:
        lagrangian = Lagrangian(AccuracyParity(0.1, groups=None))
        with pytest.raises(TrainingStateError, match=r"groups of accuracy_parity .*discover_groups\(loader\) first"):
            lagrangian.loss(*batch())

    def test_constraints_get_the_groups_they_asked_for(self) -> None:
        lagrangian = Lagrangian(
            [
                AccuracyParity(0.1, groups=None, floor=0.2),
                EqualOpportunity(0.1, groups={"race": None}),
                DemographicParity(0.1, groups={"gender": ("f", "m")}),
            ]
        )
        s = {"gender": torch.tensor([0, 1, 1]), "race": torch.tensor([4, 9, 4])}
        lagrangian.discover_groups([(s, 3, torch.device("cpu"))])
        everything = ("gender=0 × race=4", "gender=1 × race=4", "gender=1 × race=9")
        assert [c.group_names for c in lagrangian.constraints] == [
            everything,
            ("race=4", "race=9"),
            ("f", "m"),
            everything,
        ]
        assert [ids.tolist() for ids in lagrangian.parse(torch.zeros(3), torch.zeros(3), s).ids] == [
            [0, 2, 1],
            [0, 1, 0],
            [0, 1, 1],
            [0, 2, 1],
        ]


def test_penalties_are_added_to_a_task_loss_computed_elsewhere() -> None:
    logits, y, s = batch()
    one, other = (Lagrangian([EqualOpportunity(0.0), LossParity(0.0)]) for _ in range(2))
    for lagrangian in (one, other):
        lagrangian.bind(Task(2))
        for tracker in lagrangian.trackers:
            tracker.multipliers.set(torch.full(tracker.multipliers.shape, 0.3) * torch.tensor([1.0, 0.5]))
    elsewhere = logits.square().mean()
    expected = one.loss(logits, y, s) - F.cross_entropy(logits, y) + elsewhere
    torch.testing.assert_close(other.loss(logits, y, s, task_loss=elsewhere), expected)
    assert other.batches == 1
    assert torch.equal(Lagrangian(None).loss(logits, y, task_loss=elsewhere), elsewhere)
    with pytest.raises(DataError, match="needs the sensitive attribute"):
        other.loss(logits, y, task_loss=elsewhere)


def test_a_batch_that_does_not_count_leaves_the_counts_alone() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1))
    lagrangian.loss(*batch())
    before = lagrangian.trackers[0].counts.state_dict()
    lagrangian.loss(*batch(), count=False)
    assert all(torch.equal(before[key], value) for key, value in lagrangian.trackers[0].counts.state_dict().items())
    assert lagrangian.batches == 1


def test_labels_have_the_binary_cross_entropy_of_all() -> None:
    logits, y = torch.randn(20, 3), torch.randint(2, (20, 3))
    expected = F.binary_cross_entropy_with_logits(logits, y.float())
    torch.testing.assert_close(cross_entropy(logits, y), expected)
    torch.testing.assert_close(Lagrangian(AccuracyParity(0.1)).loss(logits, y, torch.arange(20) % 2), expected)


def test_a_change_from_classes_to_labels_is_refused() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1))
    lagrangian.loss(torch.zeros(2, 3), torch.zeros(2), torch.tensor([0, 1]))
    with pytest.raises(TrainingStateError, match="3 labels now and had 3 classes before"):
        lagrangian.loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]))


def test_state_of_a_multi_label_run_comes_back() -> None:
    one, other = (Lagrangian([EqualOpportunity(0.0, label=1), AccuracyParity(0.0)]) for _ in range(2))
    data = torch.randn(30, 3), torch.randint(2, (30, 3)), torch.randint(2, (30,))
    one.loss(*data)
    one.dual_step_from_training()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.loss(*data), other.loss(*data))


def test_small_groups_that_never_come_are_no_surprise_with_a_minimum_size() -> None:
    lagrangian = Lagrangian(AccuracyParity(0.1, groups=("a", "b", "c"), min_group_size=1))
    for _ in range(LOOK_AFTER + 1):
        lagrangian.loss(torch.zeros(3), torch.zeros(3), torch.tensor([0, 0, 2]))  # warnings are errors in this suite
