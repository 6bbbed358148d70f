"""U-Net: skip concatenation and transposed convolutions, with a dense output (Ronneberger et al., 2015)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, gaussian, named


def double_conv(cin: int, cout: int) -> nn.Module:
    """Two 3x3 convolutions with batch norm."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(),
        nn.Conv2d(cout, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Two levels down, two up; returns logits of shape ``(N, classes, H, W)``."""

    def __init__(self, width: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.down1 = double_conv(3, width)
        self.down2 = double_conv(width, 2 * width)
        self.bottom = double_conv(2 * width, 4 * width)
        self.lift2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up2 = double_conv(4 * width, 2 * width)
        self.lift1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up1 = double_conv(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        c = self.up2(torch.cat([self.lift2(c), b], 1))
        c = self.up1(torch.cat([self.lift1(c), a], 1))
        y: Tensor = self.head(c)
        return y


CASES = [Case("unet", UNet, gaussian(4, 3, 8, 8), named("head"))]
