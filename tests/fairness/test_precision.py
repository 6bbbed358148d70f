"""Half precision goes no further than the logits."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.fairness.outputs import Outputs
from fairprune_plugin.fairness.precision import widened, without_autocast


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_reduced_precision_become_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.5, 2.0], [1.0, -3.0]], dtype=dtype, requires_grad=True)
    outputs = Outputs.parse(logits, torch.tensor([0, 1]))
    assert outputs.logits.dtype == torch.float32
    assert outputs.logits.tolist() == [1.5, -4.0]
    outputs.logits.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_logits_stay_what_they_are(dtype: torch.dtype) -> None:
    logits = torch.zeros(3, dtype=dtype)
    assert widened(logits) is logits


def test_products_inside_are_not_taken_in_half_precision() -> None:
    a = torch.rand(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with without_autocast(a.device):
            inside = a @ a
        assert (a @ a).dtype == torch.bfloat16, "autocast goes on after it"
    assert inside.dtype == torch.float32


def test_devices_without_autocast_are_let_through() -> None:
    with without_autocast(torch.device("meta")):
        assert not torch.is_autocast_enabled("cpu")
