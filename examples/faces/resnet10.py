"""ResNet10: He et al.'s residual network (CVPR 2016) with one basic block per stage, for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(F(x) + shortcut(x)) (He et al., eq. 2).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Stride of the first convolution, and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            # The projection (option B of the paper): only where the shapes differ.
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x))


class ResNet10(nn.Module):
    """A stem, four stages of one block with ``width * (1, 2, 4, 8)`` channels, and a linear output ``fc``.

    The paper's 7x7 stem and max pooling divide the resolution by four, which a 32-pixel face cannot spare:
    here the stem is 3x3 without pooling, and only stages 2 to 4 halve, so 32 pixels end as a 4x4 map.

    Args:
        num_classes: Number C of outputs.
        width: Channels of the first stage.
        stem_stride: Stride of the stem; 2 suits 64-pixel images, at the cost of 32-pixel ones.
    """

    def __init__(self, *, num_classes: int = 2, width: int = 64, stem_stride: int = 1) -> None:
        super().__init__()
        if min(num_classes, width, stem_stride) < 1:
            raise ValueError(
                f"num_classes, width and stem_stride must be at least 1, got {num_classes}, {width} and {stem_stride}"
            )
        self.conv1 = nn.Conv2d(3, width, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = BasicBlock(width, width, stride=1)
        self.layer2 = BasicBlock(width, 2 * width, stride=2)
        self.layer3 = BasicBlock(2 * width, 4 * width, stride=2)
        self.layer4 = BasicBlock(4 * width, 8 * width, stride=2)
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, C)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
