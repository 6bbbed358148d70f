"""Models with parameters of no layer, several inputs, dictionaries, or a wrapper around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from driving import SGD, SmallMLP, batches_for, drive, kept_of, small_pruner
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner


class Scaled(nn.Module):
    """A learned scale per channel that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(1, 8, 1, 1))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc((self.conv(x) * self.scale).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("form", [dict, list])
def test_unwrapped_parameters_lose_their_channels(form: Callable[[Any], Any]) -> None:
    model, x = Scaled(), torch.randn(4, 3, 8, 8)
    pruner = BiFPPruner(
        model,
        x,
        ignored_layers=[model.fc],
        pruning_ratio=0.5,
        total_steps=2,
        unwrapped_parameters=form([(model.scale, 1)]),
    )
    drive(pruner, model, SGD(model.parameters(), lr=0.05), [(x, torch.tensor([0, 1, 0, 1]), torch.zeros(4).long())] * 2)
    masked = model.eval()(x)
    keep = kept_of(pruner, "conv")
    scale = model.scale.detach()[:, keep].clone()
    pruner.step()
    assert torch.equal(model.scale, scale)
    assert model.scale.shape == (1, 4, 1, 1)
    torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-6)


class Named(nn.Module):
    """Takes and returns dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallMLP()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.inner(batch["x"])}


@pytest.mark.parametrize("transform", [None, lambda out: out["logits"]], ids=["forward_fn", "with-output_transform"])
def test_forward_fn_and_output_transform(transform: Any) -> None:
    model, x = Named(), torch.randn(4, 6)
    pruner = BiFPPruner(
        model,
        {"x": x},
        ignored_layers=[model.inner.head],
        pruning_ratio=0.5,
        total_steps=4,
        forward_fn=lambda m, batch: m(batch),
        output_transform=transform,
    )
    optimizer = SGD(model.parameters(), lr=0.05)
    for x, y, s in batches_for(model.inner, 4):
        optimizer.zero_grad()
        pruner.loss(model({"x": x})["logits"], y, s).backward()
        pruner.regularize(model)
        optimizer.step()
    masked = model.eval()({"x": x})["logits"]
    pruner.step()
    assert model.inner.fc1.out_features == 8
    torch.testing.assert_close(model({"x": x})["logits"], masked, rtol=1e-4, atol=1e-6)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 16), nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        y: Tensor = self.head((self.left(left) + self.right(right)).relu())
        return y


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_several_inputs(form: str) -> None:
    model = TwoInputs()
    a, b = torch.randn(4, 6), torch.randn(4, 3)
    example = {"left": a, "right": b} if form == "dict" else (a, b)
    pruner = BiFPPruner(model, example, ignored_layers=[model.head], pruning_ratio=0.5, total_steps=2)
    optimizer = SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        pruner.loss(model(a, b), torch.tensor([0, 1, 1, 0])).backward()
        pruner.regularize(model)
        optimizer.step()
    masked = model(a, b)
    pruner.step()
    assert (model.left.out_features, model.right.out_features, model.head.in_features) == (8, 8, 8)
    torch.testing.assert_close(model(a, b), masked, rtol=1e-4, atol=1e-6)


def test_a_wrapper_around_the_model_may_be_regularized() -> None:
    model = SmallMLP()
    pruner = small_pruner(model, constraint=EqualOpportunity(0.02), total_steps=2)
    wrapper = nn.Sequential(model)
    x, y, s = batches_for(model, 1)[0]
    pruner.loss(wrapper(x), y, s).backward()
    pruner.regularize(wrapper)
    assert pruner.engine.step_index == 1
