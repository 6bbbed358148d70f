"""The dense network of the census example and its plain training."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .data import CensusSplit

LEARNING_RATE = 0.05
FINE_TUNING_RATE = 0.02
BATCH = 256


def mlp(num_features: int) -> nn.Sequential:
    """Three hidden layers with batch norm, two logits; the last module is the output layer."""
    layers: list[nn.Module] = []
    widths = (num_features, 128, 128, 64)
    for wide, next_wide in pairwise(widths):
        layers += [nn.Linear(wide, next_wide), nn.BatchNorm1d(next_wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 2))


def make_optimizer(
    model: nn.Module, steps: int, lr: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with momentum and a cosine schedule: the same for dense training, fine-tuning and BiFP."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def train(model: nn.Module, split: CensusSplit, *, steps: int, lr: float, seed: int) -> None:
    """Plain cross-entropy training for a number of steps."""
    model.train()
    optimizer, schedule = make_optimizer(model, steps, lr)
    done = 0
    loader = split.loader(BATCH, shuffle=True, seed=seed)
    while done < steps:
        for x, y, _ in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                return
