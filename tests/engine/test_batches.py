"""Reading a user's batch and calling a user's model."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fairprune_plugin.engine.batches import default_forward, read_batch
from fairprune_plugin.errors import DataError

X, Y, S = torch.randn(4, 3), torch.zeros(4), torch.ones(4)


@pytest.mark.parametrize("kind", [tuple, list])
def test_two_or_three_parts(kind: type) -> None:
    batch = read_batch(kind([X, Y, S]), nn.Linear(1, 1))
    assert (batch.inputs is X, batch.targets is Y, batch.sensitive is S) == (True, True, True)
    assert read_batch(kind([X, Y]), nn.Linear(1, 1)).sensitive is None


@pytest.mark.parametrize("raw", [X, {"x": X}, (X,), (X, Y, S, S)], ids=["tensor", "mapping", "one", "four"])
def test_anything_else_is_refused(raw: object) -> None:
    with pytest.raises(DataError, match=r"\(x, y, s\)"):
        read_batch(raw, nn.Linear(1, 1))


def test_nested_inputs_are_moved() -> None:
    model = nn.Linear(1, 1, device="meta")
    inputs = {"ids": X, "more": [X, (X, "text")]}
    moved = read_batch((inputs, Y, S), model)
    assert moved.inputs["ids"].device.type == moved.inputs["more"][1][0].device.type == "meta"
    assert moved.inputs["more"][1][1] == "text"
    assert moved.targets.device.type == "meta"
    assert moved.sensitive is not None
    assert moved.sensitive.device.type == "meta"


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b


def test_forward_passes_inputs_as_they_are_meant() -> None:
    assert torch.equal(default_forward(nn.Identity(), X), X)
    assert torch.equal(default_forward(Sum(), (X, 2 * X)), -X)
    assert torch.equal(default_forward(Sum(), {"b": 2 * X, "a": X}), -X)
    assert torch.equal(default_forward(Sum(), UserDict(b=2 * X, a=X)), -X)


def test_logits_of_an_output_object() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=x + 1)

    assert torch.equal(default_forward(Wrapped(), X), X + 1)
