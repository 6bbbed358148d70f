"""A residual convnet with group norms: statistics across channels of a norm group (Wu & He, 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, gaussian, named, of_type


class GroupNormNet(nn.Module):
    """Stem, one residual block, a wider stage; group counts differ between layers."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv0, self.gn0 = nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(2, 12)
        self.conv1, self.gn1 = nn.Conv2d(12, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv2, self.gn2 = nn.Conv2d(16, 12, 3, padding=1), nn.GroupNorm(2, 12)
        self.conv3, self.gn3 = nn.Conv2d(12, 24, 3, 2, 1), nn.GroupNorm(1, 24)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.gn0(self.conv0(x)))
        h = F.relu(h + self.gn2(self.conv2(F.relu(self.gn1(self.conv1(h))))))
        h = F.relu(self.gn3(self.conv3(h)))
        y: Tensor = self.fc(h.mean((2, 3)))
        return y


CASES = [
    Case(
        "groupnorm-convnet",
        GroupNormNet,
        gaussian(4, 3, 8, 8),
        named("fc"),
        cross_channel_norms=of_type(nn.GroupNorm),
    )
]
