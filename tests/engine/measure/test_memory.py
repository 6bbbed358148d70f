"""Peak memory: what is alive together, against sums done by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairprune_plugin.engine.measure.memory import peak_memory_bytes

FLOAT = 4


class Branches(nn.Module):
    """Keeps a wide result while another one is computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(10, 100, bias=False), nn.Linear(100, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.up(x)
        return self.down(wide) + self.down(wide.relu())


def test_a_chain_holds_two_neighbours_at_once() -> None:
    model = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 10))
    x = torch.randn(8, 10)
    stored = (10 * 100 + 100 + 100 * 10 + 10) * FLOAT
    # The first layer's output is still there while its rectified copy is made; before the last layer it is not.
    assert peak_memory_bytes(model, lambda: model(x)) == stored + 2 * 8 * 100 * FLOAT


def test_what_is_kept_for_later_counts() -> None:
    model, x = Branches(), torch.randn(8, 10)
    stored = 2 * 10 * 100 * FLOAT
    wide, narrow = 8 * 100 * FLOAT, 8 * 10 * FLOAT
    # Both wide tensors and both narrow ones, when the second branch comes down.
    assert peak_memory_bytes(model, lambda: model(x)) == stored + 2 * wide + 2 * narrow


def test_views_and_writing_in_place_are_free() -> None:
    model, x = nn.Sequential(nn.Linear(10, 100), nn.ReLU(inplace=True), nn.Flatten(0)), torch.randn(8, 10)
    assert peak_memory_bytes(model, lambda: model(x)) == (1000 + 100 + 800) * FLOAT


def test_shared_weights_are_stored_once_and_buffers_count() -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10))
    model[1].weight = model[0].weight
    x = torch.randn(1, 10)
    statistics = 4 * 10 * FLOAT + 8  # affine, running mean and variance, and a counter of 8 bytes
    assert peak_memory_bytes(model, lambda: model(x)) == 100 * FLOAT + statistics + 2 * 10 * FLOAT


def test_modes_and_gradients_are_as_before() -> None:
    model, seen = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), []

    def run() -> None:
        seen.append((model.training, torch.is_grad_enabled()))
        model(torch.randn(2, 3))

    peak_memory_bytes(model, run)
    assert seen == [(False, False)]
    assert model.training
