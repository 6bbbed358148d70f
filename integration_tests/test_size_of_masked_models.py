"""``masked_size``: parameters and MACs after a removal that has not happened yet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_pruning as tp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from driving import SGD, few_examples, impose, pruner_of, train_case
from fairprune_plugin.torch_pruning import BiFPPruner
from zoo import CASES, Case

EXACT = [case for case in CASES if case.exact]

pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
@few_examples
@given(seed=st.integers(0, 2**16), hidden=st.floats(0.1, 0.95))
def test_sizes_are_those_that_torch_pruning_counts_afterwards(case: Case, seed: int, hidden: float) -> None:
    model = case.build()
    pruner = pruner_of(case, model, total_steps=2, self_check=False)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for limits in pruner.budget.limits:
        part = torch.rand(limits.size, generator=generator) > hidden
        part[: limits.floor] = True
        parts.append(part)
    impose(pruner, torch.cat(parts))
    train_case(pruner, case, model, SGD(model.parameters(), lr=0.0), steps=2)
    macs, params = pruner.masked_size("macs"), pruner.masked_size("params")
    pruner.step()
    counted_macs, counted_params = tp.utils.count_ops_and_params(model, case.inputs())
    assert params == counted_params
    assert macs == pytest.approx(counted_macs, rel=0.002)
    assert pruner.count() == (counted_macs, counted_params)


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_unmasked_sizes_are_those_of_the_dense_model(case: Case) -> None:
    model = case.build()
    macs, params = tp.utils.count_ops_and_params(model, case.inputs())
    pruner = pruner_of(case, model)
    assert (pruner.dense_macs, pruner.dense_params) == (macs, params)
    assert pruner.masked_size("params") == params
    assert pruner.masked_size("macs") == pytest.approx(macs, rel=1e-6)


class Functional(nn.Module):
    """Activations as functions and layers in turn; a pooled branch as wide as another layer; one PReLU slope."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.relu, self.slope, self.pool = nn.ReLU(), nn.PReLU(), nn.AvgPool2d(2)
        self.flat, self.fc = nn.Flatten(), nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.a(x))
        b = self.slope(self.b(a)).tanh()
        y: Tensor = self.fc(self.flat(self.pool(self.c(b))))
        return y


def test_layers_of_equal_width_are_told_apart() -> None:
    model, x = Functional(), torch.randn(2, 3, 8, 8)
    pruner = BiFPPruner(model, x, pruning_ratio=0.5, ignored_layers=[model.fc], total_steps=2)
    keep = []
    for index, kept in zip(range(3), (2, 4, 6), strict=True):
        assert pruner.host_groups[index].channels.num_units == 8
        keep.append(torch.arange(8) < kept)
    impose(pruner, torch.cat(keep))
    optimizer = SGD(model.parameters(), lr=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        pruner.loss(model(x), torch.tensor([0, 1])).backward()
        pruner.regularize(model)
        optimizer.step()
    expected = pruner.masked_size("macs")
    pruner.step()
    assert expected == pytest.approx(pruner.count()[0], rel=1e-6)


class Batched(nn.Module):
    """Reads a dictionary, which Torch-Pruning cannot hand over without a ``forward_fn``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, batch: Any) -> Tensor:
        y: Tensor = self.b(self.a(batch["x"] if isinstance(batch, dict) else batch).relu())
        return y


@pytest.mark.parametrize("form", ["dict", "tensor"])
def test_macs_with_a_forward_function(form: str) -> None:
    model, x = Batched(), torch.randn(4, 6)
    pruner = BiFPPruner(
        model,
        {"x": x, "unused": x} if form == "dict" else x,
        pruning_ratio=0.5,
        target="macs",
        ignored_layers=[model.b],
        forward_fn=lambda m, batch: m(batch),
    )
    # Multiplications per sample, plus biases, which the host counts once per batch.
    batch = 4 * (6 * 16 + 16 * 2) + 16 + 2
    # As with keyword inputs in Torch-Pruning itself, a dictionary has no batch size to divide by.
    assert pruner.dense_macs == pytest.approx(batch if form == "dict" else batch / 4)
    assert pruner.masked_size("macs") == pytest.approx(pruner.dense_macs)
