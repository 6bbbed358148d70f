"""ResNet with bottleneck blocks, and its grouped variant ResNeXt (He et al., 2016; Xie et al., 2017)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, gaussian, named


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3 (with ``groups``), 1x1 expand, and a shortcut."""

    def __init__(self, cin: int, mid: int, cout: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, mid, 1, bias=False), nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.shortcut(x))


class ResNetBottleneck(nn.Module):
    """Two stages of bottlenecks; ``groups > 1`` makes it a ResNeXt."""

    def __init__(self, groups: int = 1, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stages = nn.Sequential(
            Bottleneck(8, 16, 32, 1, groups),
            Bottleneck(32, 16, 32, 1, groups),
            Bottleneck(32, 24, 48, 2, groups),
            Bottleneck(48, 24, 48, 1, groups),
        )
        self.fc = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.fc(self.stages(self.stem(x)).mean((2, 3)))
        return h


CASES = [Case("resnet-bottleneck", ResNetBottleneck, gaussian(4, 3, 10, 10), named("fc"))]
