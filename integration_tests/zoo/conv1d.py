"""A one-dimensional residual convnet, as used for signals."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, gaussian, named


class Conv1dNet(nn.Module):
    """Strided, dilated and depthwise 1-d convolutions; pooled before the classifier."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 16, 7, 2, 3), nn.BatchNorm1d(16), nn.LeakyReLU(0.1))
        self.conv1 = nn.Conv1d(16, 24, 3, padding=2, dilation=2)
        self.bn1 = nn.BatchNorm1d(24)
        self.depthwise = nn.Conv1d(24, 24, 5, padding=2, groups=24)
        self.conv2 = nn.Conv1d(24, 16, 1)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + self.conv2(self.depthwise(F.relu(self.bn1(self.conv1(h)))))
        y: Tensor = self.fc(F.adaptive_avg_pool1d(h, 1).flatten(1))
        return y


CASES = [Case("conv1d", Conv1dNet, gaussian(4, 2, 48), named("fc"))]
