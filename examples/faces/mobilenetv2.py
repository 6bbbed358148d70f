"""MobileNetV2 (Sandler et al., CVPR 2018) with a width multiplier and a variant for small images."""

from __future__ import annotations

from torch import Tensor, nn

# Table 2 of the paper: expansion factor, channels, number of blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280


def scaled(channels: int, multiplier: float) -> int:
    """Scale a channel count, to the nearest multiple of 8 (what kernels like) and at least 8."""
    return max(8, 8 * round(channels * multiplier / 8))


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expand 1x1, filter depthwise 3x3, project 1x1 without activation (Table 1 of the paper).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Stride of the depthwise convolution.
        expansion: Factor t between the input and the hidden channels; 1 leaves the expansion out.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*_conv(inputs, hidden, 1), nn.ReLU6()] if expansion != 1 else []
        depthwise = [*_conv(hidden, hidden, 3, stride=stride, groups=hidden), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *_conv(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """The paper's stack of inverted residuals with a linear output ``classifier``.

    Args:
        num_classes: Number C of outputs.
        width: Width multiplier; below 1 it spares the last convolution, as in the paper.
        small_input: Divide the resolution by 8 rather than by 32: the stem and the 160-channel stage keep
            it, so 32 pixels end as a 4x4 map. False gives the paper's strides, for 128 pixels and more.
    """

    def __init__(self, *, num_classes: int = 2, width: float = 1.0, small_input: bool = True) -> None:
        super().__init__()
        if num_classes < 1 or width <= 0:
            raise ValueError(f"expected num_classes >= 1 and width > 0, got {num_classes} and {width}")
        channels = scaled(_STEM, width)
        layers = [*_conv(3, channels, 3, stride=1 if small_input else 2), nn.ReLU6()]
        for expansion, base, repeats, first_stride in _STAGES:
            outputs = scaled(base, width)
            for number in range(repeats):
                keep = number > 0 or (small_input and base == 160)
                stride = 1 if keep else first_stride
                layers.append(InvertedResidual(channels, outputs, stride=stride, expansion=expansion))
                channels = outputs
        head = scaled(_HEAD, max(1.0, width))
        self.features = nn.Sequential(*layers, *_conv(channels, head, 1), nn.ReLU6())
        self.classifier = nn.Linear(head, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, C)."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits
