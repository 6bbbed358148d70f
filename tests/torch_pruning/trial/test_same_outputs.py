"""Removals that change what a model says are reported, as far as its example inputs show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fairprune_plugin.errors import FairPruneWarning
from fairprune_plugin.torch_pruning import BiFPPruner


class Between(nn.Module):
    """Two layers with something between them that the check on copies was told not to look at."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm, self.fc = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)
        self._between = between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self._between(self.norm(self.first(x))))
        return y


def pruned(between: Callable[[Tensor], Tensor]) -> Between:
    torch.manual_seed(0)
    model = Between(between)
    pruner = BiFPPruner(
        model, torch.randn(4, 6), pruning_ratio=0.5, ignored_layers=[model.fc], total_steps=3, self_check=False
    )
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        pruner.loss(model(torch.randn(8, 6)), torch.arange(8) % 2).backward()
        pruner.regularize(model)
        optimizer.step()
    pruner.step()
    return model


def test_what_is_the_same_needs_no_word() -> None:
    model = pruned(torch.relu)
    assert model.first.out_features == 8
    assert model.training
    assert model.norm.num_batches_tracked == 3, "the look at it leaves running statistics alone"


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda h: h.softmax(-1), "has other outputs on the example inputs"),
        (lambda h: h.reshape(-1, 4, 4).flatten(1), "cannot run on the example inputs any more"),
    ],
    ids=["softmax", "fixed-shape"],
)
def test_what_is_not_the_same_is_said(between: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.warns(FairPruneWarning, match=message):
        pruned(between)
