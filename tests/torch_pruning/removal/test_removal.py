"""Physical removal: what Torch-Pruning does, with its layer norms in order."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from driving import SGD, SmallMLP, batches_for, drive, example_of
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.removal.removal import HeadDims, _SafeGroup


class Normed(nn.Module):
    """A layer norm over many channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.norm, self.fc = nn.Linear(6, width), nn.LayerNorm(width), nn.Linear(width, 2)
        with torch.no_grad():
            self.norm.weight.copy_(torch.rand(width) + 0.5)
            self.norm.bias.copy_(torch.arange(width).float())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.norm(self.a(x)).tanh())
        return y


def group_of(model: Normed, gone: list[int]) -> Any:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(2, 6))
    return graph.get_pruning_group(model.a, tp.prune_linear_out_channels, gone)


@pytest.mark.parametrize("width", [8, 64, 768])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_layer_norm_keeps_its_affine_in_order(width: int, seed: int) -> None:
    model = Normed(width)
    gone = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[: width * 2 // 3].tolist()
    kept = sorted(set(range(width)) - set(gone))
    weight, bias = model.norm.weight.detach()[kept], model.norm.bias.detach()[kept]
    _SafeGroup(group_of(model, gone)).prune()
    assert model.norm.normalized_shape == (len(kept),)
    assert torch.equal(model.norm.weight, weight)
    assert torch.equal(model.norm.bias, bias)
    assert model.norm.weight.requires_grad


def test_the_host_alone_gets_it_wrong() -> None:
    """The reason for the class above; when this fails, it can go."""
    model = Normed(64)
    # Channels past the table of the set come out of it before smaller ones.
    gone = [i for i in range(64) if i not in (63, 1, 33)]
    bias = model.norm.bias.detach()[[1, 33, 63]]
    group_of(model, gone).prune()
    assert not torch.equal(model.norm.bias, bias)


def test_a_safe_group_is_otherwise_the_hosts() -> None:
    group = group_of(Normed(8), [1, 2])
    safe = _SafeGroup(group)
    assert len(safe) == len(group)
    assert [dep for dep, _ in safe] == [dep for dep, _ in group]
    assert safe[0].idxs == group[0].idxs
    assert safe.details() == group.details()
    assert str(safe) == str(group)


@pytest.mark.parametrize("width", [64, 768])
def test_a_wide_layer_norm_survives_a_run(width: int) -> None:
    torch.manual_seed(2)
    model, x = Normed(width), torch.randn(16, 6)
    pruner = BiFPPruner(model, x, pruning_ratio=0.6, ignored_layers=[model.fc], total_steps=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    drive(pruner, model, optimizer, batches_for(SmallMLP(), 6))
    masked = model.eval()(x)
    pruner.step()
    pruned = model(x)
    assert model.norm.normalized_shape == (int(width * 0.4 + 1e-9),)
    assert (masked - pruned).abs().max() <= 1e-4 * masked.abs().max()


def test_the_pruning_history_rebuilds_the_model() -> None:
    """Torch-Pruning's own way to save: replayed through JSON on a fresh model, same shapes and a loadable state."""
    model = SmallMLP()
    pruner = BiFPPruner(model, example_of(model), pruning_ratio=0.5, ignored_layers=[model.head], total_steps=8)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 8))
    pruner.step()
    history = json.loads(json.dumps(pruner.pruning_history()))
    fresh = SmallMLP()
    graph = tp.DependencyGraph().build_dependency(fresh, example_inputs=example_of(fresh))
    graph.load_pruning_history(history)
    fresh.load_state_dict(model.state_dict())
    x = example_of(model)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


class FusedAttention(nn.Module):
    """Queries, keys and values in one layer, whose size is three times that of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 4
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(rows, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, tokens, -1))
        return out


def test_head_sizes_follow_the_share_that_goes() -> None:
    model = nn.Sequential(FusedAttention())
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(2, 5, 16))
    host = SimpleNamespace(model=model, DG=graph, num_heads={model[0].qkv: 4})
    untouched = HeadDims(host)
    untouched.update()
    assert model[0].head_dim == 4
    dims = HeadDims(host)
    rows = [row for row in range(48) if row % 4 == 3]  # the last of each head's four, of queries, keys and values
    tp.prune_linear_out_channels(model[0].qkv, rows)
    dims.update()
    assert model[0].head_dim == 3
    tp.prune_linear_in_channels(model[0].proj, [3, 7, 11, 15])
    assert model(torch.randn(2, 5, 16)).shape == (2, 5, 16)
