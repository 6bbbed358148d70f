"""Data of two groups and a small network, for the tries that train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GIVEN = torch.zeros(2, 6)  # example inputs


def batches(count: int = 8) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches ``(x, y, s)`` of 16."""
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        y, s = torch.randint(0, 2, (2, 16), generator=random)
        made.append((torch.randn(16, 6, generator=random) + y[:, None] * (1.5 - s[:, None]), y, s))
    return made


def network() -> nn.Sequential:
    """Sixteen hidden units; the layer ``"2"`` is the head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
