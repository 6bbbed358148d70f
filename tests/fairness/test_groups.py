"""The sensitive attributes: what is taken as group ids, how attributes are crossed, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.errors import ConfigError, DataError
from fairprune_plugin.fairness.attribute import UNKNOWN, Attribute
from fairprune_plugin.fairness.groups import Groups

NAMES = ("young", "middle", "old")
CPU = torch.device("cpu")
CROSSED = {"gender": ("f", "m"), "age": NAMES}
GENDER, AGE = torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 1, 1])


def check(sensitive: Any, spec: Any = NAMES, batch: int = 3) -> list[int]:
    ids = Groups.parse(spec).checked_ids(sensitive, batch=batch, device=CPU)
    assert ids.dtype == torch.int64
    return ids.tolist()


@pytest.mark.parametrize(
    "sensitive",
    [
        *(torch.tensor([0, 1, 1], dtype=d) for d in (torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool)),
        torch.tensor([[0], [1], [1]]),
        [0, 1, 1],
        (0, 1, 1),
        ["young", "middle", "middle"],
        {"whatever": torch.tensor([0, 1, 1])},
        {"s": ["young", "middle", "middle"]},
    ],
    ids=["int64", "int32", "uint8", "float32", "bool", "column", "list", "tuple", "names", "mapping", "mapped-names"],
)
def test_ids_of_one_attribute(sensitive: Any) -> None:
    assert check(sensitive) == [0, 1, 1]


ERRORS: dict[str, tuple[Any, str]] = {
    "none": (None, "as a tensor of group ids or a list of 3 names, got NoneType"),
    "text": ("old", "got str"),
    "too-short": (torch.tensor([0, 1]), r"shape \(3,\), one group id per sample, got \(2,\)"),
    "short-list": ([0, 1], r"shape \(3,\)"),
    "short-list-of-names": (["old"], "for 3 samples, got 1 values"),
    "one-hot": (torch.eye(3), r"shape \(3,\)"),
    "nan": (torch.tensor([0.0, float("nan"), 1.0]), "NaN or infinite ids: give the unknown group an id of its own"),
    "fraction": (torch.tensor([0.0, 0.5, 1.0]), "fractions"),
    "complex": (torch.zeros(3, dtype=torch.complex64), "complex64"),
    "negative": (torch.tensor([0, -1, 2]), "group id -1 .*never declared.*drop those samples"),
    "undeclared": (torch.tensor([0, 1, 3]), r"group id 3 .*never declared.*young, middle, old.*groups=4"),
    "undeclared-name": (["young", "ancient", "old"], "group 'ancient' .*never declared.*young, middle, old.*its name"),
    "infinite": (torch.tensor([0.0, 1.0, float("inf")]), "NaN or infinite"),
    "other-device": (torch.zeros(3, device="meta"), "meta"),
    "several-attributes": ({"a": torch.zeros(3), "b": torch.zeros(3)}, "which are 'a', 'b': name the attributes"),
}


@pytest.mark.parametrize(("sensitive", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_unusable_attributes_are_refused(sensitive: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(sensitive)


def test_ids_that_do_not_begin_at_zero() -> None:
    with pytest.raises(DataError, match=r"pass the ids themselves, groups=\(1, 2\), to the constraint"):
        check(torch.tensor([1, 2, 1]), 2)
    with pytest.raises(DataError, match=r"pass the ids themselves, groups=\{'sex': \(1, 2\)\}"):
        check({"sex": torch.tensor([1, 2, 1])}, {"sex": 2})
    with pytest.raises(DataError, match=r"pass groups=3 \(or their names\)"):
        check(torch.tensor([0, 1, 2]), 2)


def test_long_lists_of_names_are_cut() -> None:
    with pytest.raises(DataError, match="group-7, …") as error:
        check(torch.tensor([20]), [f"group-{i}" for i in range(20)], batch=1)
    assert "group-8" not in str(error.value)


class TestIntersections:
    """Several attributes: the groups are the pairs, in the order of the product, first attribute slowest."""

    def test_names_and_label(self) -> None:
        groups = Groups.parse(CROSSED)
        assert groups.names == ("f × young", "f × middle", "f × old", "m × young", "m × middle", "m × old")
        assert groups.label == "gender × age"
        assert Groups.parse(3).label == ""

    @pytest.mark.parametrize(
        "sensitive",
        [
            {"gender": GENDER, "age": AGE},
            {"age": AGE, "gender": GENDER, "unused": torch.zeros(4)},
            {"gender": ["f", "m", "m", "f"], "age": AGE},
            {"gender": GENDER.tolist(), "age": [NAMES[i] for i in AGE]},
            torch.stack([GENDER, AGE], 1),
            torch.stack([GENDER, AGE], 1).float(),
        ],
        ids=["dict", "other-order", "names-and-ids", "lists", "columns", "float-columns"],
    )
    def test_every_way_to_give_them(self, sensitive: Any) -> None:
        assert check(sensitive, CROSSED, batch=4) == [2, 3, 4, 1]

    def test_numbers_as_keys_are_columns(self) -> None:
        columns = torch.stack([torch.full((4,), 99), AGE, GENDER], 1)
        assert check(columns, {2: 2, 1: 3}, batch=4) == [2, 3, 4, 1]

    @given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
    def test_id_is_the_position_of_the_name(self, sizes: list[int], random: Any) -> None:
        names = [[f"{a}{i}" for i in range(size)] for a, size in enumerate(sizes)]
        names[0].append("0x")  # two groups at least
        groups = Groups.parse({f"a{a}": tuple(values) for a, values in enumerate(names)})
        people = [[random.choice(values) for values in names] for _ in range(20)]
        columns = {f"a{a}": [person[a] for person in people] for a in range(len(names))}
        ids = groups.checked_ids(columns, batch=20, device=CPU)
        assert [groups.names[i] for i in ids] == [" × ".join(person) for person in people]

    @pytest.mark.parametrize(
        ("sensitive", "message"),
        [
            ({"gender": GENDER}, "expected 'age' among the batch's sensitive attributes, which are 'gender'"),
            ({}, "which are nothing"),
            (torch.zeros(4, 3), "which of the 3 columns .* 'gender' is: name all of them"),
            (GENDER, r"about 2 attributes \('gender', 'age'\) but the batch has a tensor of shape \(4,\)"),
            (
                {"gender": GENDER, "age": AGE + 1},
                r"group id 3 of the sensitive attribute 'age'.*groups=\{'age': 4, …\}",
            ),
            ({"gender": GENDER, "age": AGE[:2]}, r"'age' of shape \(4,\)"),
            ({"gender": GENDER, "age": AGE * 0.5}, "the sensitive attribute 'age', got fractions"),
        ],
        ids=["missing", "empty", "columns", "one", "undeclared", "short", "fractions"],
    )
    def test_what_is_wrong_is_named(self, sensitive: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            check(sensitive, CROSSED, batch=4)

    def test_a_column_that_is_not_there(self) -> None:
        with pytest.raises(DataError, match=r"which of the 2 columns .* 5 is"):
            check(torch.zeros(4, 2), {0: 2, 5: 2}, batch=4)


def test_without_the_check_unknown_values_have_the_unknown_id() -> None:
    groups = Groups.parse(CROSSED)
    ids = groups.ids({"gender": torch.tensor([0, 7, 1]), "age": ["old", "old", "dead"]}, batch=3, device=CPU)
    assert ids.tolist() == [2, UNKNOWN, UNKNOWN]


def test_codes_stand_for_values() -> None:
    groups = Groups((Attribute("race", ("race=3", "race=7"), codes=(3, 7)),))
    assert groups.checked_ids({"race": torch.tensor([7, 3])}, batch=2, device=CPU).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"group id 0 .*'race'.*not there when they were discovered"):
        groups.checked_ids({"race": torch.tensor([7, 0])}, batch=2, device=CPU)


def test_only_some_intersections() -> None:
    groups = Groups(Groups.parse(CROSSED).attributes, present=(1, 2, 5))
    assert groups.names == ("f × middle", "f × old", "m × old")
    known = {"gender": torch.tensor([1, 0]), "age": torch.tensor([2, 1])}
    assert groups.checked_ids(known, batch=2, device=CPU).tolist() == [2, 0]
    with pytest.raises(DataError, match=r"intersection .* was not there"):
        groups.checked_ids({"gender": GENDER, "age": AGE}, batch=4, device=CPU)


@pytest.mark.parametrize(
    "spec", [{}, {"gender": 1}, {"gender": 1, "age": ("all",)}, {"gender": "f"}, {"gender": ("f", "f")}], ids=str
)
def test_fewer_than_two_groups_are_refused(spec: Any) -> None:
    with pytest.raises(ConfigError, match="at least two"):
        Groups.parse(spec)


def test_an_attribute_with_one_value_beside_another_is_fine() -> None:
    assert Groups.parse({"country": ("DE",), "gender": 2}).names == ("DE × 0", "DE × 1")


@pytest.mark.parametrize("values", [(1, 0), (18, 65, 7), ("5", "-6"), (1, 2)], ids=str)
def test_names_that_are_numbers_are_the_values_themselves(values: tuple[int | str, ...]) -> None:
    groups = Groups.parse(values)
    numbers = [int(value) for value in values]
    column = torch.tensor(numbers[::-1] + numbers)
    ids = groups.checked_ids(column, batch=len(column), device=torch.device("cpu"))
    assert [groups.names[i] for i in ids] == [str(v) for v in column.tolist()]
    by_name = groups.checked_ids([str(v) for v in column.tolist()], batch=len(column), device=torch.device("cpu"))
    assert torch.equal(ids, by_name)
    with pytest.raises(DataError, match="never declared"):
        groups.checked_ids(torch.tensor([99]), batch=1, device=torch.device("cpu"))
    assert Groups.parse(groups.spec()) == groups


def test_arrays_are_read_like_tensors_and_lists() -> None:
    cpu = torch.device("cpu")
    ids, names = Groups.parse(2), Groups.parse(("f", "m"))
    assert ids.checked_ids(np.array([0, 1, 1]), batch=3, device=cpu).tolist() == [0, 1, 1]
    assert names.checked_ids(np.array(["m", "f"]), batch=2, device=cpu).tolist() == [1, 0]
    with pytest.raises(DataError, match="shape"):
        ids.checked_ids(np.zeros((3, 2)), batch=3, device=cpu)


FORMS = {
    "reversed": lambda ids: np.ascontiguousarray(ids[::-1])[::-1],
    "every other": lambda ids: np.repeat(ids, 2)[::2],
    "another machine's": lambda ids: ids.astype(ids.dtype.newbyteorder()),
    "another machine's floats": lambda ids: ids.astype(np.dtype(np.float64).newbyteorder()),
    "longdouble": lambda ids: ids.astype(np.longdouble),
    "half": lambda ids: ids.astype(np.float16),
    "unsigned": lambda ids: ids.astype(np.uint64),
    "list of NumPy floats": lambda ids: list(ids.astype(np.float16)),
    "list of longdoubles": lambda ids: list(ids.astype(np.longdouble)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_arrays_that_torch_does_not_take(form: Any) -> None:
    ids = np.array([0, 1, 1, 0, 1, 0])
    given = form(ids)
    for groups, sensitive in ((Groups.parse(2), given), (Groups.parse({"a": 2}), {"a": given})):
        assert groups.checked_ids(sensitive, batch=6, device=torch.device("cpu")).tolist() == ids.tolist()


def test_arrays_with_a_column_for_each_attribute() -> None:
    cpu = torch.device("cpu")
    columns = torch.tensor([[0, 1], [1, 1], [1, 0]])
    both, second = Groups.parse({"a": 2, "b": 2}), Groups.parse({1: 2})
    for groups in (both, second):
        expected = groups.checked_ids(columns, batch=3, device=cpu)
        for array in (columns.numpy(), columns.numpy()[:, ::-1][:, ::-1].astype(">i4"), np.ma.array(columns.numpy())):
            assert torch.equal(groups.checked_ids(array, batch=3, device=cpu), expected)
    names = np.array([["f", "x"], ["m", "x"], ["m", "y"]])
    named = Groups.parse({"a": ("f", "m"), "b": ("y", "x")})
    assert torch.equal(named.checked_ids(names, batch=3, device=cpu), both.checked_ids(columns, batch=3, device=cpu))
    with pytest.raises(DataError, match=r"cannot tell which of the 3 columns"):
        both.checked_ids(np.zeros((3, 3), dtype=int), batch=3, device=cpu)
    with pytest.raises(DataError, match=r"but the batch has an array of shape \(3,\): yield a dict"):
        both.checked_ids(np.zeros(3, dtype=int), batch=3, device=cpu)


@pytest.mark.parametrize("groups", [2, ("f", "m")], ids=str)
def test_masked_entries_are_missing(groups: Any) -> None:
    values = [0, 1, 1] if groups == 2 else ["f", "m", "m"]
    array = np.ma.array(values, mask=[False, False, True])
    with pytest.raises(DataError, match="None"):
        Groups.parse(groups).checked_ids(array, batch=3, device=torch.device("cpu"))
    whole = np.ma.array(values)
    assert Groups.parse(groups).checked_ids(whole, batch=3, device=torch.device("cpu")).tolist() == [0, 1, 1]


@pytest.mark.filterwarnings("error")
def test_read_only_arrays() -> None:
    ids = np.array([0, 1])
    ids.setflags(write=False)
    assert Groups.parse(2).checked_ids(ids, batch=2, device=torch.device("cpu")).tolist() == [0, 1]


def test_ids_that_do_not_fit() -> None:
    large = np.array([2**63 + 5], dtype=np.uint64)
    with pytest.raises(DataError, match="expected group ids that fit 64 bits, got 9223372036854775813"):
        Groups.parse(2).checked_ids(large, batch=1, device=torch.device("cpu"))


@pytest.mark.parametrize("names", [(True, False), (False, True), ("True", "False")], ids=str)
@pytest.mark.parametrize("form", [list, torch.tensor, lambda flags: [str(flag) for flag in flags]])
def test_flags_are_the_groups_called_so(names: Any, form: Any) -> None:
    groups = Groups.parse(names)
    flags = [True, False, True]
    ids = groups.checked_ids(form(flags), batch=3, device=torch.device("cpu"))
    assert [groups.names[i] for i in ids.tolist()] == ["True", "False", "True"]
    assert Groups.parse(groups.spec()) == groups


@pytest.mark.parametrize("form", [lambda ids: [float(i) for i in ids], lambda ids: [torch.tensor(i) for i in ids]])
def test_lists_of_whole_numbers_in_other_clothes(form: Any) -> None:
    ids = Groups.parse(3).checked_ids(form([2, 0, 1]), batch=3, device=torch.device("cpu"))
    assert ids.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "spec",
    [(1.0, 0.0), np.array([1.0, 0.0]), ("1.0", "0.0"), tuple(torch.tensor([1, 0]))],
    ids=["floats", "array", "texts", "tensors"],
)
def test_whole_numbers_as_floats_or_tensors_are_the_values_themselves(spec: Any) -> None:
    """``groups=tuple(column.unique())``: in the order of appearance, and as floats where values are missing."""
    for ids in (torch.tensor([0, 1, 1]), torch.tensor([0.0, 1.0, 1.0]), [0.0, 1.0, 1.0], np.array([0.0, 1.0, 1.0])):
        assert check(ids, spec) == [1, 0, 0]
    assert check(torch.tensor([2.0, 1.0, 2.0]), (1.0, 2.0)) == [1, 0, 1]
