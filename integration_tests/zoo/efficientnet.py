"""EfficientNet-like: MBConv with squeeze-and-excitation and SiLU (Hu et al., 2018; Tan & Le, 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, gaussian, named


class SqueezeExcite(nn.Module):
    """Channel gates computed from the pooled features."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(gate))))


class MBConv(nn.Module):
    """Expand, depthwise 3x3, squeeze-and-excitation, project; residual where the shape allows it."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        mid = cin * expand
        self.expand = nn.Sequential(nn.Conv2d(cin, mid, 1, bias=False), nn.BatchNorm2d(mid), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False), nn.BatchNorm2d(mid), nn.SiLU()
        )
        self.se = SqueezeExcite(mid, max(4, cin // 2))
        self.project = nn.Sequential(nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return x + h if self.residual else h


class EfficientNet(nn.Module):
    """Stem, three MBConv blocks, head convolution, classifier."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.blocks = nn.Sequential(MBConv(8, 12, 2), MBConv(12, 12, 1), MBConv(12, 16, 1))
        self.head = nn.Sequential(nn.Conv2d(16, 40, 1, bias=False), nn.BatchNorm2d(40), nn.SiLU())
        self.fc = nn.Linear(40, classes)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.fc(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return h


CASES = [Case("efficientnet-se", EfficientNet, gaussian(4, 3, 16, 16), named("fc"))]
