"""Grouped convolutions, inside residual blocks and with unequal widths (Xie et al., 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from .case import Case, gaussian, named
from .resnet_bottleneck import ResNetBottleneck


class GroupedConvNet(nn.Module):
    """Grouped convolutions in a row, with biases, whose group counts and in/out widths differ.

    Group counts that share one set of channels must divide each other: Torch-Pruning repeats a pattern over
    the largest of them only, and a forward after pruning fails for, say, three next to two.
    """

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.GELU(),
            nn.Conv2d(12, 24, 3, padding=1, groups=2),
            nn.BatchNorm2d(24),
            nn.Sigmoid(),
            nn.Conv2d(24, 12, 1, groups=4),
            nn.ELU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.fc(self.features(x).flatten(1))
        return h


CASES = [
    Case("resnext", lambda: ResNetBottleneck(groups=4), gaussian(4, 3, 10, 10), named("fc")),
    Case("grouped-convs", GroupedConvNet, gaussian(4, 3, 8, 8), named("fc")),
]
