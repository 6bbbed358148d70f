"""The sensitive attribute: what is taken as group ids and what is refused."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.errors import DataError
from fairprune_plugin.fairness.groups import check_groups

NAMES = ("young", "middle", "old")


def check(sensitive: object) -> torch.Tensor:
    return check_groups(sensitive, batch=3, group_names=NAMES, device=torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sensitive",
    [torch.tensor([0, 1, 1], dtype=d) for d in (torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool)],
    ids=lambda t: str(t.dtype),
)
def test_whole_numbers_of_any_type(sensitive: torch.Tensor) -> None:
    ids = check(sensitive)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [0, 1, 1]


ERRORS = {
    "list": ([0, 1, 2], "got list"),
    "none": (None, "got NoneType"),
    "too-short": (torch.tensor([0, 1]), r"shape \(3,\)"),
    "column": (torch.tensor([[0], [1], [2]]), r"shape \(3,\)"),
    "one-hot": (torch.eye(3), r"shape \(3,\)"),
    "nan": (torch.tensor([0.0, float("nan"), 1.0]), "NaN"),
    "fraction": (torch.tensor([0.0, 0.5, 1.0]), "fractions"),
    "complex": (torch.zeros(3, dtype=torch.complex64), "complex64"),
    "negative": (torch.tensor([0, -1, 2]), "negative id -1"),
    "undeclared": (torch.tensor([0, 1, 3]), r"group id 3 was never declared.*young, middle, old.*groups=4"),
    "infinite": (torch.tensor([0.0, 1.0, float("inf")]), "."),
    "other-device": (torch.zeros(3, device="meta"), "meta"),
}


@pytest.mark.parametrize(("sensitive", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_unusable_attributes_are_refused(sensitive: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(sensitive)


def test_long_lists_of_names_are_cut() -> None:
    names = tuple(f"group-{i}" for i in range(20))
    with pytest.raises(DataError, match="group-7, …") as error:
        check_groups(torch.tensor([20]), batch=1, group_names=names, device=torch.device("cpu"))
    assert "group-8" not in str(error.value)
