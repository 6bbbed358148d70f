"""What a file of plain tensors cannot hold is named, with a way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_networks import MLP
from torch import Tensor, nn

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.torch_pruning.state.storable import storable_state


def with_buffer(value: Tensor) -> nn.Module:
    model = MLP()
    model.register_buffer("extra", value)
    return model


def lazy() -> nn.Module:
    model: Any = MLP()
    model.extra = nn.LazyLinear(3)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            with_buffer(torch.eye(3).to_sparse()),
            r"extra of the model's state is sparse \(torch\.sparse_coo\): .*to_dense",
        ),
        (with_buffer(torch.empty(3, device="meta")), "extra of the model's state is on the meta device"),
        (lazy(), r"extra\.weight of the model's state is without a shape yet"),
    ],
    ids=["sparse", "meta", "lazy"],
)
def test_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        storable_state(model)


def test_a_sparse_buffer_outside_of_the_state_is_no_matter() -> None:
    model = MLP()
    model.register_buffer("extra", torch.eye(3).to_sparse(), persistent=False)
    assert "extra" not in storable_state(model)


def test_copies_have_memory_of_their_own() -> None:
    model = MLP()
    model.a.weight.data = torch.randn(6, 12).T
    state = storable_state(model)
    assert torch.equal(state["a.weight"], model.a.weight)
    assert state["a.weight"].is_contiguous()
    before = state["b.weight"].clone()
    with torch.no_grad():
        model.b.weight.zero_()
    assert torch.equal(state["b.weight"], before)
