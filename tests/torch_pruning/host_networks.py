"""Small networks of the kinds whose channels hang together in different ways, and biased batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin.torch_pruning import BiFPPruner

Batches = list[tuple[Tensor, Tensor, Tensor]]


class MLP(nn.Module):
    """6 → 12 → 8 → classes with a batch norm."""

    def __init__(self, classes: int = 2, hidden: tuple[int, int] = (12, 8)) -> None:
        super().__init__()
        self.a, self.bn = nn.Linear(6, hidden[0]), nn.BatchNorm1d(hidden[0])
        self.b = nn.Linear(hidden[0], hidden[1])
        self.fc = nn.Linear(hidden[1], classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.b(F.relu(self.bn(self.a(x))))))
        return out


class ResidualCNN(nn.Module):
    """A stem, one residual block (its convolution shares channels with the stem) and a classifier."""

    def __init__(self, width: int = 6, classes: int = 2) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.bn1 = nn.Conv2d(width, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def images(samples: int = 2) -> Tensor:
    return torch.randn(samples, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def rows(samples: int = 4) -> Tensor:
    return torch.randn(samples, 6, generator=torch.Generator().manual_seed(3))


def batches(count: int = 4, *, image: bool = False, groups: int = 2, classes: int = 2) -> Batches:
    """Batches of 16 in which every group has every class; the second group's inputs are noisier."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, 6, 6) if image else (6,)
    out = []
    for _ in range(count):
        y = torch.arange(16) % classes
        s = (torch.arange(16) // classes) % groups
        scale = (1.0 + s).reshape(-1, *[1] * len(shape))
        x = torch.randn(16, *shape, generator=generator) * scale + y.reshape(-1, *[1] * len(shape))
        out.append((x, y, s))
    return out


def randomise(model: nn.Module) -> nn.Module:
    """Random batch-norm statistics, affines and biases: fresh ones hide mistakes."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def prune_mlp(model: nn.Module, **options: Any) -> BiFPPruner:
    """A pruner for :class:`MLP` as a user would write it."""
    return BiFPPruner(model, rows(), **{"ignored_layers": [model.fc], "total_steps": 10, **options})


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def train(pruner: BiFPPruner, model: nn.Module, optimizer: torch.optim.Optimizer, data: Batches) -> None:
    """The README's loop, without the final ``step()``."""
    model.train()
    for x, y, s in data:
        optimizer.zero_grad()
        loss = pruner.loss(model(x), y, s)
        loss.backward()
        pruner.regularize(model)
        optimizer.step()
