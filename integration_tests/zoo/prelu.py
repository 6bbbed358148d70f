"""Channelwise and shared PReLU slopes (He et al., 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from .case import Case, gaussian, named


class PReLUNet(nn.Module):
    """Convolutions followed by one slope per channel, or by a single slope."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.PReLU(12),
            nn.Conv2d(12, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.PReLU(),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.PReLU(16),
            nn.AdaptiveAvgPool2d(2),
        )
        self.fc = nn.Linear(16 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.features(x).flatten(1))
        return y


CASES = [Case("prelu", PReLUNet, gaussian(4, 3, 12, 12), named("fc"))]
