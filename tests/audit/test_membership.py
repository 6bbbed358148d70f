"""Samples of no group are counted and shown, whatever form the sensitive attribute has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from audit_data import binary

from fairprune_plugin import AccuracyParity, audit_predictions
from fairprune_plugin.errors import DataError, FairPruneWarning

LOGITS, Y, S, _ = binary(40)
NAMES = [("f", "m")[i] for i in S.tolist()]


def run(sensitive: Any, groups: Any) -> Any:
    return audit_predictions(LOGITS, Y, sensitive, AccuracyParity(0.5, groups=groups), bootstrap=100)


def test_values_the_constraint_never_saw() -> None:
    ids = S.clone()
    ids[:5], ids[5:7] = 7, -3
    with pytest.warns(
        FairPruneWarning, match=r"7 samples have a value that the constraint never saw: 7 \(5\), -3 \(2\)"
    ):
        report = run(ids, ("f", "m"))
    grouping = report.groupings[0]
    assert grouping.unknown == {"7": 5, "-3": 2}
    assert (report.skipped, sum(grouping.sizes), report.samples) == (7, 33, 40)
    # The groups are those without the skipped samples; everyone is everyone.
    for group, name in enumerate(("f", "m")):
        right = ((LOGITS > 0).long() == Y)[(ids == group)].double().mean()
        assert report.measure("accuracy", name).value == pytest.approx(float(right))
    assert report.measure("accuracy").samples == 40
    assert "never saw" in report.to_markdown()
    assert "7 in no group" in report.to_html()
    assert report.to_dict()["skipped"] == 7


@pytest.mark.parametrize(
    ("sensitive", "groups"),
    [
        (torch.where(torch.arange(40) < 4, torch.nan, S.double()), ("f", "m")),
        ([None, float("nan"), None, None, *NAMES[4:]], ("f", "m")),
        ([None, float("nan"), None, None, *NAMES[4:]], None),
        (np.array([None, None, None, None, *NAMES[4:]], dtype=object), ("f", "m")),
        ({"sex": [None] * 4 + NAMES[4:]}, {"sex": ("f", "m")}),
        (torch.where(torch.arange(40) < 4, torch.nan, S.double()), None),
    ],
    ids=["nan", "names", "names-discovered", "object-array", "mapping", "nan-discovered"],
)
def test_missing_values(sensitive: Any, groups: Any) -> None:
    with pytest.warns(FairPruneWarning, match="4 samples have no value"):
        report = run(sensitive, groups)
    assert (report.groupings[0].missing, report.groupings[0].unknown, report.skipped) == (4, {}, 4)
    assert sorted(report.groupings[0].sizes) == sorted(torch.bincount(S[4:]).tolist())


def test_a_value_that_one_attribute_lacks_does_not_count_against_another() -> None:
    age = torch.arange(40) % 2
    sensitive = {"sex": [None] * 4 + NAMES[4:], "age": age}
    constraints = [AccuracyParity(0.5, groups={"sex": None}), AccuracyParity(0.5, groups={"age": 2})]
    with pytest.warns(FairPruneWarning, match="4 samples have no value of sex"):
        report = audit_predictions(LOGITS, Y, sensitive, constraints, bootstrap=100)
    assert [grouping.skipped for grouping in report.groupings] == [4, 0]


def test_intersections_name_the_unknown_value() -> None:
    race = torch.arange(40) % 3
    with pytest.warns(FairPruneWarning, match="of sex × race that the constraint never saw: sex=m, race=2"):
        report = run({"sex": NAMES, "race": race}, {"sex": ("f", "m"), "race": ("A", "B")})
    assert set(report.groupings[0].unknown) == {"sex=f, race=2", "sex=m, race=2"}
    assert report.groupings[0].groups == ("f × A", "f × B", "m × A", "m × B")


def test_groups_are_discovered_from_columns_and_without_a_constraint() -> None:
    columns = torch.stack([S, torch.arange(40) % 2], dim=1)
    assert len(run(columns, None).groupings[0].groups) == 4
    report = audit_predictions(LOGITS, Y, NAMES, bootstrap=100)
    assert (report.groupings[0].groups, report.verdicts, report.status) == (("f", "m"), (), "met")


def test_declared_group_without_samples_keeps_the_verdict_open() -> None:
    with pytest.warns(FairPruneWarning, match="no sample of x"):
        report = run(S, ("f", "m", "x"))
    assert report.verdicts[0].status == "not decidable"
    assert "accuracy of x is undefined" in report.verdicts[0].notes[0]
    with pytest.warns(FairPruneWarning, match="no sample of x"):
        exempt = audit_predictions(
            LOGITS, Y, S, AccuracyParity(1.0, groups=("f", "m", "x"), min_group_size=1), bootstrap=100
        )
    assert exempt.verdicts[0].status == "met"


@pytest.mark.parametrize(
    ("sensitive", "groups", "message"),
    [
        (S + 9, 2, "no sample belongs to a group of the constraint, which knows 0, 1; the loader has"),
        ([None] * 40, ("f", "m"), "missing values only"),
        ([None] * 40, None, "empty"),
        (S.double() + 0.5, 2, "fractions"),
        (S[:7], 2, "shape"),
        (NAMES[:7], None, "for 40 samples, got 7"),
        ("female", None, "as a tensor of group ids or a list of names"),
        ({"sex": S}, {"race": 2}, "'race' among the batch's sensitive attributes, which are 'sex'"),
        (torch.zeros(40).long(), None, "one group only"),
    ],
)
def test_unusable_attributes(sensitive: Any, groups: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(sensitive, groups)


def test_whatever_kind_of_nothing_a_list_has_is_a_missing_value() -> None:
    class NotAvailable:
        """As pandas' NA: whether it differs from anything is not available either."""

        def __ne__(self, other: object) -> Any:
            return self

        def __bool__(self) -> bool:
            raise TypeError("boolean value of NA is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    names: list[Any] = list(NAMES)
    names[:4] = [None, float("nan"), np.float32("nan"), NotAvailable()]
    with pytest.warns(FairPruneWarning, match="4 samples have no value"):
        report = run(names, None)
    assert report.groupings[0].groups == ("f", "m")
    assert (report.groupings[0].missing, sum(report.groupings[0].sizes)) == (4, 36)
