"""How an exported model's answers are compared with the model's."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.export.calls import difference, tensors

ONES, NAN = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_answer_that_is_no_number_is_a_difference_wherever_it_stands(position: int) -> None:
    answers = [ONES, ONES, ONES]
    answers[position] = NAN
    with pytest.raises(UnsupportedModelError, match="differs from the model by nan"):
        difference([ONES] * 3, answers, "the file", 1e-3)


def test_the_largest_of_all_outputs_counts() -> None:
    answers = [ONES + 1e-5, ONES - 3e-5, torch.empty(0)]
    found = difference([ONES, ONES, torch.empty(0)], answers, "the file", 1e-3)
    assert found == pytest.approx(3e-5, rel=0.02)
    assert difference([torch.empty(0)], [torch.empty(0)], "the file", 1e-3) == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_and_truth_values_must_be_equal(dtype: torch.dtype) -> None:
    expected = torch.tensor([0, 1, 1, 0]).to(dtype)
    same = difference([ONES, expected], [ONES, expected.clone()], "the file", 1e-3)
    assert same == 0
    other = torch.tensor([0, 1, 0, 0]).to(dtype)
    with pytest.raises(UnsupportedModelError, match=r"output 1 of the file differs from the model in 1 of 4"):
        difference([ONES, expected], [ONES, other], "the file", 1e3)


def test_large_whole_numbers_are_not_rounded() -> None:
    with pytest.raises(UnsupportedModelError, match="in 1 of 1 whole numbers"):
        difference([torch.tensor(2**60)], [torch.tensor(2**60 + 1)], "the file", 1e-3)


def test_all_tensors_are_compared() -> None:
    waves = torch.complex(ONES, -ONES).conj()
    scores, ids, pairs = tensors((ONES.half(), [torch.arange(2), None, 3], waves))
    assert (scores.dtype, ids.dtype, pairs.dtype) == (torch.float32, torch.int64, torch.float32)
    assert pairs.tolist() == [[1, 1]] * 3
