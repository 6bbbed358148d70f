"""Constraints: each notion against Fairlearn, every refusal, and the round trip through plain values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import fairlearn.metrics as fm
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.attribute import Attribute
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    CONSTRAINTS,
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
    constraint_from,
    with_floors,
)
from fairprune_plugin.fairness.groups import Groups
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.rates import Rate
from fairprune_plugin.fairness.surrogates import SURROGATES
from fairprune_plugin.fairness.tracker import ConstraintTracker

FAIRLEARN: dict[type[Constraint], Callable[..., float]] = {
    DemographicParity: fm.demographic_parity_difference,
    EqualOpportunity: fm.equal_opportunity_difference,
    EqualizedOdds: fm.equalized_odds_difference,
}


def batch(classes: int, groups: int, samples: int = 200) -> tuple[Outputs, torch.Tensor]:
    return Outputs.parse(torch.randn(samples, classes), torch.randint(classes, (samples,))), torch.randint(
        groups, (samples,)
    )


def gaps(constraint: Constraint, outputs: Outputs, groups: torch.Tensor) -> torch.Tensor:
    tracker = ConstraintTracker(constraint, outputs.task, MultiplierConfig())
    counts = tracker.new_counts()
    counts.update(outputs, groups)
    return tracker.gaps(counts, "test")


@pytest.mark.parametrize("groups", [2, 3, 5])
@pytest.mark.parametrize("method", ["between_groups", "to_overall"])
@pytest.mark.parametrize("notion", FAIRLEARN, ids=lambda notion: notion.name)
def test_gap_is_fairlearns_difference(notion: type[Constraint], method: str, groups: int) -> None:
    outputs, s = batch(2, groups)
    reference = "pairwise" if method == "between_groups" else "overall"
    ours = gaps(notion(0.1, groups=groups, reference=reference), outputs, s)
    theirs = FAIRLEARN[notion](
        outputs.targets.numpy(), outputs.predicted().numpy(), sensitive_features=s.numpy(), method=method
    )
    assert float(ours.max()) == pytest.approx(theirs, abs=1e-12)
    assert theirs > 0


@pytest.mark.parametrize("notion", FAIRLEARN, ids=lambda notion: notion.name)
@pytest.mark.parametrize("positive", [None, 2], ids=["every-class", "class-2"])
def test_many_classes_are_one_against_the_rest(notion: type[Constraint], positive: int | None) -> None:
    outputs, s = batch(4, 3)
    ours = gaps(notion(0.1, groups=3, positive=positive), outputs, s)
    classes = range(4) if positive is None else [positive]
    per_class = len(ours) // len(classes)
    for row, cls in enumerate(classes):
        theirs = FAIRLEARN[notion](
            (outputs.targets == cls).long().numpy(),
            (outputs.predicted() == cls).long().numpy(),
            sensitive_features=s.numpy(),
        )
        assert float(ours[row * per_class : (row + 1) * per_class].max()) == pytest.approx(theirs, abs=1e-12)
    assert per_class == (2 if notion is EqualizedOdds else 1)


def test_accuracy_parity_has_one_rate_whatever_the_classes() -> None:
    outputs, s = batch(4, 2)
    right = (outputs.predicted() == outputs.targets).double()
    expected = abs(float(right[s == 0].mean() - right[s == 1].mean()))
    assert gaps(AccuracyParity(0.1), outputs, s).tolist() == pytest.approx([expected])


def test_class_zero_of_a_binary_task() -> None:
    outputs, s = batch(2, 2)
    ours = gaps(EqualOpportunity(0.1, positive=0), outputs, s)
    # The true positive rate of class 0 is one minus the false positive rate of class 1.
    odds = gaps(EqualizedOdds(0.1), outputs, s)
    assert float(ours[0]) == pytest.approx(float(odds[1]))
    assert [rate.name for rate in EqualizedOdds(0.1).rates(Task(2))] == [
        "true_positive_rate[1]",
        "false_positive_rate[1]",
    ]


def test_the_gap_to_a_named_group() -> None:
    outputs, s = batch(2, 3)
    rates = [float((outputs.predicted()[s == g] == 1).double().mean()) for g in range(3)]
    constraint = DemographicParity(0.1, groups=("young", "middle", "old"), reference="old")
    assert float(gaps(constraint, outputs, s)[0]) == pytest.approx(max(abs(r - rates[2]) for r in rates))
    assert constraint.reference_key == 2
    assert DemographicParity(0.1, groups=3, reference=2).reference_key == 2
    assert DemographicParity(0.1, groups=3, reference="2").reference_key == 2


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "tolerance-negative": ({"tolerance": -0.1}, r"\[0, 1\]"),
    "tolerance-in-percent": ({"tolerance": 2}, "two percentage points"),
    "tolerance-nan": ({"tolerance": float("nan")}, r"\[0, 1\]"),
    "tolerance-text": ({"tolerance": "0.1"}, r"a tolerance in \[0, 1\], got '0.1'"),
    "tolerance-bool": ({"tolerance": True}, "a tolerance .* got True"),
    "one-group": ({"groups": 1}, "at least two groups"),
    "one-name": ({"groups": ["women"]}, "at least two groups"),
    "same-name-twice": ({"groups": ["a", "b", "a"]}, "two distinct"),
    "group-text": ({"groups": "gender"}, "'gender'"),
    "groups-fraction": ({"groups": 2.5}, "at least two groups"),
    "surrogate": ({"surrogate": "relu"}, "sigmoid, logistic, hinge, linear, probability"),
    "positive": ({"positive": -1}, "≥ 0"),
    "reference-name": ({"reference": "men", "groups": ["a", "b"]}, "'pairwise', 'overall' or one of the groups a, b"),
    "reference-id": ({"reference": 2}, "unknown reference 2"),
    "reference-bool": ({"reference": True}, "name or id, got True"),
    "reference-itself": ({"reference": "itself"}, "unknown reference 'itself'"),
    "reference-of-intersections": (
        {"groups": {"a": ("x", "y"), "b": 2}, "reference": "x"},
        "unknown reference 'x': .*x × 0, x × 1, y × 0, y × 1",
    ),
    "no-attributes": ({"groups": {}}, "at least two groups"),
    "floor-in-percent": ({"floor": 2}, r"expected a floor in \[0, 1\], got 2"),
    "floor-text": ({"floor": "0.1"}, r"expected a floor in \[0, 1\], got '0.1'"),
    "label-negative": ({"label": -1}, "label as a whole number ≥ 0, got -1"),
    "label-bool": ({"label": True}, "label as a whole number"),
    "min-group-size-negative": ({"min_group_size": -1}, "min_group_size as a whole number ≥ 0"),
    "min-group-size-fraction": ({"min_group_size": 0.5}, "min_group_size as a whole number"),
    "average": ({"average": "micro"}, "average='macro' .*got 'micro' for equal_opportunity"),
    "average-of-one-class": ({"average": "macro", "positive": 1}, "without positive"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_unusable_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EqualOpportunity(**{"tolerance": 0.1, **options})


@pytest.mark.parametrize("tolerance", [0, 1, 0.0, 1.0], ids=repr)
def test_the_ends_of_the_tolerance_are_allowed(tolerance: float) -> None:
    assert EqualOpportunity(tolerance).tolerance == tolerance


def test_a_positive_class_the_task_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive class is 3 but the logits have 3 classes"):
        EqualOpportunity(0.1, positive=3).rates(Task(3))


def test_the_base_class_is_no_notion() -> None:
    with pytest.raises(ConfigError, match="abstract"):
        Constraint(0.1).rates(Task(2))


def test_constraints_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EqualOpportunity(0.1).tolerance = 0.2  # type: ignore[misc]


NAMES = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=2, max_size=4, unique=True)
GROUPS = st.integers(2, 6) | NAMES
SEVERAL = st.dictionaries(st.sampled_from(["gender", "race", "age"]), GROUPS | st.none(), min_size=1)


@st.composite
def constraints(draw: st.DrawFn) -> Constraint:
    groups = draw(GROUPS | SEVERAL | st.none())
    names = list(Groups.parse(groups).names)
    notion = draw(st.sampled_from([cls for cls in CONSTRAINTS.values() if cls is not RateParity]))
    positive = draw(st.none() | st.integers(0, 3))
    return notion(
        tolerance=draw(st.floats(0, 1)),
        groups=groups,
        reference=draw(st.sampled_from(["pairwise", "overall", 0, *names])),
        surrogate=draw(st.sampled_from(SURROGATES)),
        positive=positive,
        average=draw(st.sampled_from([None, "macro"])) if notion.per_class and positive is None else None,
        label=draw(st.none() | st.integers(0, 3)),
        min_group_size=draw(st.integers(0, 100)),
        floor=draw(st.none() | st.floats(0, 1)),
    )


@given(constraints())
def test_round_trip_through_plain_values_json_and_yaml(constraint: Constraint) -> None:
    spec = constraint.to_dict()
    assert constraint_from(spec) == constraint
    assert constraint_from(json.loads(json.dumps(spec))) == constraint
    assert constraint_from(yaml.safe_load(yaml.safe_dump(spec, sort_keys=False))) == constraint
    assert type(constraint_from(spec)) is type(constraint)


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert EqualOpportunity(0.02).to_dict() == {"name": "equal_opportunity", "tolerance": 0.02}
    assert DegradationParity(0.0, groups=("f", "m"), positive=0).to_dict() == {
        "name": "degradation_parity",
        "tolerance": 0.0,
        "groups": ["f", "m"],
        "positive": 0,
    }


def test_reading_does_not_change_the_description() -> None:
    spec = {"name": "accuracy_parity", "tolerance": 0.1}
    constraint_from(spec)
    assert spec == {"name": "accuracy_parity", "tolerance": 0.1}


def test_constraints_and_none_pass_through() -> None:
    constraint = EqualOpportunity(0.1)
    assert constraint_from(constraint) is constraint
    assert constraint_from(None) is None


SPEC_ERRORS = {
    "unknown-name": ({"name": "fairness", "tolerance": 0.1}, "choose one of accuracy_parity, degradation_parity"),
    "no-name": ({"tolerance": 0.1}, "unknown constraint None"),
    "unknown-key": ({"name": "equal_opportunity", "tau": 0.1}, "unknown key 'tau'.*tolerance, groups, reference"),
    "no-tolerance": ({"name": "equal_opportunity"}, "needs a tolerance"),
    "only-a-name": ("equal_opportunity", "needs a tolerance.*'name': 'equal_opportunity'"),
}


@pytest.mark.parametrize(("spec", "message"), SPEC_ERRORS.values(), ids=SPEC_ERRORS.keys())
def test_wrong_descriptions_list_the_choices(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        constraint_from(spec)


@pytest.mark.parametrize("notion", [AccuracyParity, LossParity, DegradationParity], ids=lambda notion: notion.name)
def test_notions_that_know_no_classes_have_no_average_over_them(notion: type[Constraint]) -> None:
    with pytest.raises(ConfigError, match="a notion about classes"):
        notion(0.1, average="macro")


def test_losses_have_no_upper_limit_and_no_infinite_one() -> None:
    assert LossParity(2.0).tolerance == 2.0
    for tolerance in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"\[0, ∞\), in nats"):
            LossParity(tolerance)
    with pytest.raises(ConfigError, match=r"floor in \[0, 1\]"):
        LossParity(2.0, floor=2.0)


def test_labels_the_task_lacks_are_refused() -> None:
    with pytest.raises(ConfigError, match="constrained label is 3 but the logits have 3 labels"):
        EqualOpportunity(0.1, label=3).rates(Task(2, 3))
    with pytest.raises(ConfigError, match="label=0 is for multi-label tasks, but this one has 4 classes"):
        EqualOpportunity(0.1, label=0).rates(Task(4))


def test_names_of_rates_tell_class_and_label() -> None:
    def names(constraint: Constraint, task: Task) -> list[str]:
        return [rate.name for rate in constraint.rates(task)]

    assert names(PredictiveEquality(0.1), Task(3)) == [f"false_positive_rate[{cls}]" for cls in range(3)]
    assert names(EqualOpportunity(0.1), Task(2, 2)) == ["true_positive_rate[1]@0", "true_positive_rate[1]@1"]
    assert names(EqualOpportunity(0.1, positive=0, label=1), Task(2, 2)) == ["true_positive_rate[0]@1"]
    assert names(AccuracyParity(0.1), Task(2, 2)) == ["accuracy@0", "accuracy@1"]
    assert names(LossParity(0.1), Task(3)) == ["loss"]


def test_a_reference_waits_for_groups_that_are_to_be_discovered() -> None:
    waiting = EqualOpportunity(0.1, groups=None, reference="old")
    assert waiting.num_groups == 0
    found = dataclasses.replace(waiting, groups=("young", "old"))
    assert found.reference_key == 1
    with pytest.raises(ConfigError, match="unknown reference 'old'"):
        dataclasses.replace(waiting, groups=("f", "m"))


def test_defaults_of_the_one_sided_notions() -> None:
    ceag, floor = ExcessAccuracyGap(0.01), AccuracyFloor(0.01)
    assert (ceag.reference_key, ceag.surrogate, ceag.sides) == ("overall", "cross_entropy", (-1,))
    assert (floor.reference_key, floor.surrogate, floor.sides) == ("itself", "sigmoid", (-1,))
    assert DegradationParity(0.1, reference="itself").sides == (1, -1)


class TestFloors:
    def test_a_floor_becomes_a_constraint_of_the_same_groups(self) -> None:
        parity = EqualOpportunity(0.05, groups=("f", "m"), floor=0.02, min_group_size=7)
        assert with_floors((parity,)) == (parity, AccuracyFloor(0.02, ("f", "m"), min_group_size=7))
        assert with_floors((AccuracyParity(0.1),)) == (AccuracyParity(0.1),)

    def test_the_strictest_one_of_the_same_groups(self) -> None:
        both = (EqualOpportunity(0.05, floor=0.03), AccuracyParity(0.05, floor=0.01))
        assert with_floors(both)[2:] == (AccuracyFloor(0.01),)

    def test_other_groups_and_labels_have_floors_of_their_own(self) -> None:
        gender, race = {"gender": 2}, {"race": 3}
        constraints = (
            EqualOpportunity(0.05, gender, floor=0.02, label=0),
            EqualOpportunity(0.05, gender, floor=0.03, label=1),
            EqualOpportunity(0.05, race, floor=0.04),
        )
        assert with_floors(constraints)[3:] == (
            AccuracyFloor(0.02, gender, label=0),
            AccuracyFloor(0.03, gender, label=1),
            AccuracyFloor(0.04, race),
        )


def test_a_users_rate_is_no_plain_value() -> None:
    with pytest.raises(ConfigError) as unknown:
        constraint_from({"name": "own", "tolerance": 0.1})
    assert "rate_parity" not in str(unknown.value), "nothing is offered that would be refused"
    rate = Rate(lambda out: out.predicted() == 1, surrogate=lambda out: out.probability(1), name="own")
    assert RateParity(0.1, rate=rate).to_dict() == {"name": "rate_parity", "tolerance": 0.1, "rate": "own"}
    with pytest.raises(ConfigError, match="build RateParity"):
        constraint_from({"name": "rate_parity", "tolerance": 0.1, "rate": "own"})
    assert constraint_from({"name": "rate_parity", "tolerance": 0.1, "rate": rate}) == RateParity(0.1, rate=rate)


def test_discovered_groups_are_not_written() -> None:
    groups = Groups((Attribute("race", ("race=3", "race=7"), codes=(3, 7)),))
    found = EqualOpportunity(0.1, groups=groups)
    assert found.group_names == ("race=3", "race=7")
    assert constraint_from(found.to_dict()) == EqualOpportunity(0.1, groups={"race": None})


def test_a_reference_is_called_by_its_value_when_values_are_numbers() -> None:
    assert AccuracyParity(0.1, groups=(5, 6), reference=6).reference_key == 1
    assert AccuracyParity(0.1, groups=(1, 2), reference=1).reference_key == 0
    assert AccuracyParity(0.1, groups=3, reference=1).reference_key == 1
