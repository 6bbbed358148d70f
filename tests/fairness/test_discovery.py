"""Groups read off the data: values, names, which intersections there are, and data that have no groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.errors import DataError
from fairprune_plugin.fairness.discovery import discover
from fairprune_plugin.fairness.groups import Groups

CPU = torch.device("cpu")


def found(spec: Any, *batches: Any) -> Groups:
    def size(sensitive: Any) -> int:
        return len(next(iter(sensitive.values()))) if isinstance(sensitive, dict) else len(sensitive)

    return discover(Groups.parse(spec), [(sensitive, size(sensitive), CPU) for sensitive in batches])


def ids(groups: Groups, sensitive: Any, batch: int) -> list[int]:
    return groups.checked_ids(sensitive, batch=batch, device=CPU).tolist()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32], ids=str)
def test_values_of_one_attribute_over_all_batches(dtype: torch.dtype) -> None:
    groups = found(None, torch.tensor([7, 3], dtype=dtype), torch.tensor([3, 12, 3], dtype=dtype))
    assert groups.names == ("3", "7", "12")
    assert ids(groups, torch.tensor([12, 3, 7]), 3) == [2, 0, 1]


def test_the_attributes_key_is_part_of_the_name() -> None:
    groups = found(None, {"race": torch.tensor([7, 3])})
    assert groups.names == ("race=3", "race=7")
    assert groups.label == "race"
    assert ids(groups, {"race": torch.tensor([7, 3])}, 2) == [1, 0]


def test_names_the_loader_gives_are_kept() -> None:
    groups = found(None, ["woman", "man"], ["man", "other"])
    assert groups.names == ("man", "other", "woman")
    assert ids(groups, ["woman", "man", "other"], 3) == [2, 0, 1]


def test_declared_names_are_kept_beside_discovered_ones() -> None:
    batch = {"gender": torch.tensor([0, 1, 1]), "race": torch.tensor([5, 5, 9])}
    groups = found({"gender": ("f", "m"), "race": None}, batch)
    assert groups.names == ("f × race=5", "m × race=5", "m × race=9")
    assert ids(groups, batch, 3) == [0, 1, 2]


def test_intersections_nobody_belongs_to_are_left_out() -> None:
    batches = [torch.tensor([[0, 4], [1, 4]]), torch.tensor([[1, 6], [1, 6]])]
    groups = found(None, *batches)
    assert groups.names == ("0=0 × 1=4", "0=1 × 1=4", "0=1 × 1=6")
    assert [ids(groups, batch, 2) for batch in batches] == [[0, 1], [2, 2]]
    with pytest.raises(DataError, match="intersection of the sensitive attributes was not there"):
        ids(groups, torch.tensor([[0, 6]]), 1)
    with pytest.raises(DataError, match=r"group id 5 .* attribute 1 .*not there when they were discovered"):
        ids(groups, torch.tensor([[0, 5]]), 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=2, max_size=30))
def test_every_sample_finds_its_group_and_every_group_a_sample(rows: list[tuple[int, int, bool]]) -> None:
    batch = {
        "a": torch.tensor([a for a, _, _ in rows]),
        "b": [f"b{b}" for _, b, _ in rows],
        "c": torch.tensor([c for _, _, c in rows]),
    }
    if len(set(rows)) < 2:
        with pytest.raises(DataError, match="one group only"):
            found(None, batch)
        return
    groups = found(None, batch)
    expected = [f"a={a} × b{b} × c={int(c)}" for a, b, c in rows]
    assert [groups.names[i] for i in ids(groups, batch, len(rows))] == expected
    assert set(groups.names) == set(expected)


def test_the_order_of_batches_does_not_matter() -> None:
    batches = [torch.randint(5, (6, 2)) for _ in range(4)]
    assert found(None, *batches) == found(None, *reversed(batches))


def test_declared_groups_that_never_occur_stay() -> None:
    assert found(3, torch.tensor([0, 1])).names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the loader is empty"),
        ([torch.tensor([4, 4])], r"one group only \(4\)"),
        ([["f", "f"], ["f"]], r"one group only \(f\)"),
        ([torch.tensor([[0, 1], [0, 1]])], r"one group only \(0=0 × 1=1\)"),
        ([torch.tensor([0.5, 1.0])], "fractions"),
        ([torch.tensor([0, float("nan")])], "NaN"),
        ([{"a": torch.tensor([0, 1])}, {"b": torch.tensor([0, 1])}], "expected 'a' among .* which are 'b'"),
        ([torch.tensor([0, 1]), {"a": torch.tensor([0, 1]), "b": torch.tensor([0, 1])}], "name the attributes"),
    ],
    ids=["empty", "one-value", "one-name", "one-intersection", "fractions", "nan", "other-key", "other-kind"],
)
def test_data_without_groups_are_refused(batches: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        found(None, *batches)


def test_discovered_groups_are_written_as_to_be_discovered() -> None:
    assert found(None, torch.tensor([7, 3])).spec() == ["3", "7"], "numbers are names that can be declared"
    assert found({"race": None}, {"race": torch.tensor([7, 3])}).spec() == {"race": None}
    assert found(("f", "m"), torch.tensor([0, 1])).spec() == ["f", "m"]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan")], ids=repr)
def test_a_missing_value_is_no_group(missing: Any) -> None:
    with pytest.raises(DataError, match="missing values"):
        found(None, ["a", "b", missing])
