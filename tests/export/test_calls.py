"""How an exported model's answers are compared with the model's."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.export.calls import difference

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
