"""Settings of an optimizer and its schedulers: found once, in plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, OneCycleLR, SequentialLR

from fairprune_plugin.engine.run.hyper_parameters import hyper_parameters


def parameter() -> torch.Tensor:
    return torch.zeros(1, requires_grad=True)


def test_options_by_group_as_plain_numbers() -> None:
    groups = [{"params": [parameter()], "lr": torch.tensor(0.5)}, {"params": [parameter()], "lr": np.float64(0.25)}]
    found = hyper_parameters(AdamW(groups, betas=(0.8, 0.9), fused=True), None)
    assert found["lr of the optimizer"] == [0.5, 0.25]
    assert {type(value) for value in found["lr of the optimizer"]} == {float}
    assert found["betas of the optimizer"] == [(0.8, 0.9)] * 2
    assert hyper_parameters(SGD([parameter()], lr=0.1), None)["momentum of the optimizer"] == 0
    assert not any(key.startswith(("params", "fused", "foreach", "capturable")) for key in found)


def test_what_is_no_plain_value_is_left_out() -> None:
    optimizer = SGD([{"params": [parameter()], "rule": print, "scales": torch.ones(3), "pair": (1, print)}], lr=0.1)
    found = hyper_parameters(optimizer, object())
    assert not {"rule", "scales", "pair"} & {key.split()[0] for key in found}


@pytest.mark.parametrize("tensor", [False, True])
def test_what_a_scheduler_moves_is_as_it_was_found(tensor: bool) -> None:
    def pair() -> tuple[Any, Any]:
        optimizer = AdamW([parameter()], lr=torch.tensor(0.1) if tensor else 0.1)
        return optimizer, OneCycleLR(optimizer, 0.1, total_steps=8)

    optimizer, schedule = pair()
    found = hyper_parameters(optimizer, schedule)
    assert found["total_steps of the lr_scheduler"] == 8
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert hyper_parameters(optimizer, schedule) == found, "the same ones, in a notebook"
    assert hyper_parameters(*pair()) == found, "in the same script again"


def test_schedulers_of_a_scheduler() -> None:
    optimizer = SGD([parameter()], lr=0.1)
    parts = [ConstantLR(optimizer, 0.5, 3), CosineAnnealingLR(optimizer, 9, eta_min=0.01)]
    found = hyper_parameters(optimizer, SequentialLR(optimizer, parts, [3]))
    assert found["factor of part 1 of the lr_scheduler"] == 0.5
    assert (found["T_max of part 2 of the lr_scheduler"], found["eta_min of part 2 of the lr_scheduler"]) == (9, 0.01)
    assert "base_lrs of part 1 of the lr_scheduler" not in found
