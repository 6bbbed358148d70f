"""The look at the data before training: what cannot be learned is refused, what cannot be judged is warned about."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fairprune_plugin.engine.loaders.census import check_loader
from fairprune_plugin.errors import DataError, FairPruneWarning
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    PredictiveEquality,
)
from fairprune_plugin.fairness.lagrangian import Lagrangian

NAMES = ("young", "middle", "old")


def check(constraint: Constraint | None, y: list[int], s: list[int] | None, split: str = "train") -> None:
    x = torch.zeros(len(y), 1)
    parts = (x, torch.tensor(y)) if s is None else (x, torch.tensor(y), torch.tensor(s))
    half = max(len(y) // 2, 1)
    loader = [tuple(p[:half] for p in parts), tuple(p[half:] for p in parts)] if len(y) > 1 else [parts]
    check_loader(loader, nn.Linear(1, 2), Lagrangian(constraint), split=split)


def test_good_data_pass_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for split in ("train", "validation"):
            check(EqualizedOdds(0.1, groups=NAMES), [0, 1] * 3, [0, 0, 1, 1, 2, 2], split)


def test_without_a_constraint_nothing_is_read() -> None:
    def explode() -> object:
        raise AssertionError("read")
        yield

    check_loader(explode(), nn.Linear(1, 2), Lagrangian(None), split="train")  # type: ignore[arg-type]


ERRORS = {
    "one-group": (
        AccuracyParity(0.1, groups=NAMES),
        [0, 1],
        [1, 1],
        r"one group only \(middle\) of young, middle, old",
    ),
    "absent-group": (AccuracyParity(0.1, groups=NAMES), [0, 1], [0, 2], "no sample of group middle"),
    "no-positives": (
        EqualOpportunity(0.1),
        [1, 0, 0, 0],
        [0, 0, 1, 1],
        r"true_positive_rate\[1\] is undefined for group 1",
    ),
    "no-negatives": (
        EqualizedOdds(0.1),
        [1, 1, 1, 0],
        [0, 0, 1, 1],
        r"false_positive_rate\[1\] is undefined for group 0",
    ),
    "no-attribute": (AccuracyParity(0.1), [0, 1], None, r"needs \(x, y, s\)"),
    "undeclared-group": (
        AccuracyParity(0.1),
        [0, 1],
        [0, 2],
        "group id 2 of the sensitive attribute was never declared",
    ),
}


@pytest.mark.parametrize(("constraint", "y", "s", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_unlearnable_training_data_are_refused(constraint, y, s, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(constraint, y, s)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_loader_is_refused(split: str) -> None:
    with pytest.raises(DataError, match=f"the {split} loader is empty"):
        check_loader([], nn.Linear(1, 2), Lagrangian(AccuracyParity(0.1)), split=split)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_batches_without_samples_say_nothing(split: str, place: int) -> None:
    x, y, s = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    loader = [(x, y, s)] * 2
    loader.insert(place, (x[:0], y[:0], s[:0]))
    check_loader(loader, nn.Linear(1, 2), Lagrangian(EqualizedOdds(0.1)), split=split)
    with pytest.raises(DataError, match=f"the {split} loader is empty: no batch with samples"):
        check_loader([(x[:0], y[:0], s[:0])], nn.Linear(1, 2), Lagrangian(EqualizedOdds(0.1)), split=split)


def test_inputs_without_targets_are_refused() -> None:
    x, y, s = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    with pytest.raises(
        DataError, match=r"a target for each sample of the train data, got .* of shape \(0,\) beside inputs"
    ):
        check_loader([(x, y, s), (x, y[:0], s)], nn.Linear(1, 2), Lagrangian(AccuracyParity(0.1)), split="train")


@pytest.mark.parametrize("case", ["absent-group", "no-positives", "no-negatives"])
def test_on_validation_data_the_same_is_a_warning(case: str) -> None:
    constraint, y, s, message = ERRORS[case]
    with pytest.warns(FairPruneWarning, match=message):
        check(constraint, y, s, "validation")


class TestDiscovery:
    def test_groups_are_read_off_all_batches_once(self) -> None:
        lagrangian = Lagrangian([AccuracyParity(0.1, groups=None), EqualOpportunity(0.1, groups=NAMES)])
        loader = [(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([value, 0])) for value in (2, 1)]
        loader += [(torch.zeros(3, 1), torch.ones(3), torch.arange(3))]
        check_loader(loader, nn.Linear(1, 2), lagrangian, split="train")
        assert [c.group_names for c in lagrangian.constraints] == [("0", "1", "2"), NAMES]
        # The validation split may lack a group; it does not discover others.
        with pytest.warns(FairPruneWarning, match="no sample of group 2"):
            check_loader(loader[1:2] * 2, nn.Linear(1, 2), lagrangian, split="validation")
        assert lagrangian.constraints[0].group_names == ("0", "1", "2")

    def test_a_group_of_validation_data_that_training_data_lack_is_refused(self) -> None:
        lagrangian = Lagrangian(AccuracyParity(0.1, groups=None))
        loader = [(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([5, 7]))]
        check_loader(loader, nn.Linear(1, 2), lagrangian, split="train")
        with pytest.raises(DataError, match=r"group id 6 .* not there when they were discovered: declare"):
            check_loader([(*loader[0][:2], torch.tensor([5, 6]))], nn.Linear(1, 2), lagrangian, split="validation")

    def test_dicts_of_several_attributes(self) -> None:
        lagrangian = Lagrangian(EqualOpportunity(0.1, groups={"gender": ("f", "m"), "race": None}))
        s = {"gender": ["f", "m", "m", "f"], "race": torch.tensor([3, 3, 8, 3])}
        loader = [{"x": torch.zeros(4, 1), "y": torch.tensor(y), "s": s} for y in ([1, 1, 1, 0], [1, 0, 0, 0])]
        check_loader(loader, nn.Linear(1, 2), lagrangian, split="train")
        assert lagrangian.constraints[0].group_names == ("f × race=3", "m × race=3", "m × race=8")

    def test_a_dict_without_the_attribute_says_what_is_there(self) -> None:
        with pytest.raises(DataError, match=r"train loader's dicts have no sensitive attribute.* there are 'x', 'y'"):
            check_loader(
                [{"x": torch.zeros(4, 1), "y": torch.ones(4)}],
                nn.Linear(1, 2),
                Lagrangian(AccuracyParity(0.1)),
                split="train",
            )


class TestMinGroupSize:
    Y, S = [1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]  # 3, 2 and 1 positives

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_small_groups_are_named_and_let_be(self, split: str) -> None:
        constraint = EqualOpportunity(0.1, groups=NAMES, min_group_size=2)
        with pytest.warns(FairPruneWarning) as caught:
            check(constraint, self.Y, self.S, split)
        (warning,) = caught
        assert f"on the {split} data: true_positive_rate[1] of group old rests on 1 samples, fewer than 2" in str(
            warning.message
        )
        assert "middle" not in str(warning.message)
        assert "reported, not constrained" in str(warning.message)

    def test_large_groups_pass_in_silence(self) -> None:
        check(EqualOpportunity(0.1, groups=NAMES, min_group_size=1), self.Y, self.S)  # warnings are errors here

    @pytest.mark.parametrize("case", ["absent-group", "no-positives"])
    def test_with_it_training_data_may_lack_a_group(self, case: str) -> None:
        constraint, y, s, message = ERRORS[case]
        guarded = dataclasses.replace(constraint, min_group_size=1)
        with pytest.warns(FairPruneWarning, match=f"{message}.*reported, not constrained"):
            check(guarded, y, s)


def test_labels_are_looked_at_one_by_one() -> None:
    y = torch.tensor([[1, 1], [0, 1], [1, 0], [1, 0]])
    loader = [(torch.zeros(4, 1), y, torch.tensor([0, 0, 1, 1]))]
    with pytest.raises(DataError, match=r"true_positive_rate\[1\]@1 is undefined for group 1"):
        check_loader(loader, nn.Linear(1, 2), Lagrangian(EqualOpportunity(0.1)), split="train")
    check_loader(loader, nn.Linear(1, 2), Lagrangian(EqualOpportunity(0.1, label=0)), split="train")


def test_every_constraint_is_asked_about_its_own_groups() -> None:
    s = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 0, 0])}
    loader = [(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]), s)]
    fine = Lagrangian([AccuracyParity(0.1, {"a": 2}), AccuracyParity(0.1, {"b": 2})])
    check_loader(loader, nn.Linear(1, 2), fine, split="train")
    with pytest.raises(DataError, match="no sample of group 1 × 1"):
        check_loader(loader, nn.Linear(1, 2), Lagrangian(AccuracyParity(0.1, {"a": 2, "b": 2})), split="train")


@pytest.mark.parametrize("notion", [DemographicParity, EqualOpportunity, PredictiveEquality])
def test_the_positive_class_may_be_missing_from_a_split(notion: Callable[..., Constraint]) -> None:
    """How many classes there are follows from the constraint too, not from these labels alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairPruneWarning)  # equal opportunity is undefined there, which is said
        check(notion(0.1, groups=2, positive=2), [0, 1, 0, 1], [0, 0, 1, 1], "validation")
