"""DenseNet: concatenation and transition layers (Huang et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .case import Case, gaussian, named


class DenseLayer(nn.Module):
    """Pre-activated 1x1 and 3x3 convolutions whose output is appended to the input."""

    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.ReLU(),
            nn.Conv2d(cin, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def transition(cin: int, cout: int) -> nn.Module:
    """Compress the channels and halve the resolution."""
    return nn.Sequential(nn.BatchNorm2d(cin), nn.ReLU(), nn.Conv2d(cin, cout, 1, bias=False), nn.AvgPool2d(2))


class DenseNet(nn.Module):
    """Two dense blocks with a transition between them."""

    def __init__(self, growth: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(*[DenseLayer(8 + i * growth, growth) for i in range(3)])
        self.transition = transition(8 + 3 * growth, 12)
        self.block2 = nn.Sequential(*[DenseLayer(12 + i * growth, growth) for i in range(2)])
        self.norm = nn.BatchNorm2d(12 + 2 * growth)
        self.fc = nn.Linear(12 + 2 * growth, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block2(self.transition(self.block1(self.stem(x))))
        h = torch.relu(self.norm(h)).mean((2, 3))
        y: Tensor = self.fc(h)
        return y


CASES = [Case("densenet", DenseNet, gaussian(4, 3, 10, 10), named("fc"))]
