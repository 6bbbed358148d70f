"""Networks whose parameters cross the edge between two ranks in every way, and how they are sharded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from fairprune_plugin.torch_pruning import BiFPPruner

from .parts import STEPS, Net

WIDTH = 8  # of the transformer, in two heads


class Convolutions(nn.Module):
    """Rows of every kind cross the edge between two ranks: depthwise and grouped kernels, affines of norms, PReLU; seven
    channels on two ranks, five on three."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(6, 14, 3, padding=1), nn.GroupNorm(2, 14)
        self.depthwise, self.act = nn.Conv2d(14, 14, 3, padding=1, groups=14), nn.PReLU(14)
        self.grouped = nn.Conv2d(14, 10, 1, groups=2)
        self.conv2, self.norm2 = nn.Conv2d(10, 7, 1), nn.LayerNorm(7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.depthwise(self.norm1(self.conv1(x[:, :, None, None].expand(-1, -1, 2, 2)))))
        x = torch.relu(self.conv2(self.grouped(x))).mean((2, 3))
        out: Tensor = self.head(self.norm2(x))
        return out


class Attention(nn.Module):
    """Head sizes are thinned: rows of queries and keys are masked, not columns alone."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (layer(x).view(batch, tokens, 2, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 13), nn.Linear(13, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(torch.relu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(1, 3, WIDTH))
        self.blocks, self.norm = nn.Sequential(Block(), Block()), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)[:, None] * torch.ones(3, 1) + self.position
        out: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return out


def spread(model: nn.Module, parts: list[nn.Module]) -> nn.Module:
    """A copy under ``fully_shard``, some parts of it by themselves."""
    names = {module: name for name, module in model.named_modules()}
    copied = copy.deepcopy(model)
    for part in parts:
        fully_shard(copied.get_submodule(names[part]))
    fully_shard(copied)
    return copied


def layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not list(module.children()) and list(module.parameters())]


def whole(model: nn.Module) -> list[nn.Module]:
    return []


def build(net: Callable[[], nn.Module] = Net, constraint: Any = None, **options: Any) -> tuple[nn.Module, BiFPPruner]:
    """The same model and pruner on every rank."""
    torch.manual_seed(0)
    model = net()
    if isinstance(model, Transformer):
        options["num_heads"] = {layer: 2 for block in model.blocks for layer in list(block.attention.children())[:3]}
        options["unwrapped_parameters"] = [(model.position, 2)]
    defaults = {"pruning_ratio": 0.5, "total_steps": STEPS, "multipliers": {"lr": 0.5}, "self_check": False}
    return model, BiFPPruner(
        model, torch.zeros(2, 6), ignored_layers=[model.head], constraint=constraint, **{**defaults, **options}
    )
