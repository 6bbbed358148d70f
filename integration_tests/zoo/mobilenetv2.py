"""MobileNetV2: inverted residuals with depthwise convolutions (Sandler et al., 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from .case import Case, gaussian, named


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and its batch norm."""
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout)]


class InvertedResidual(nn.Module):
    """Expand, depthwise, linear projection; a shortcut where the shape allows it."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int) -> None:
        super().__init__()
        mid = cin * expand
        layers: list[nn.Module] = [] if expand == 1 else [*conv_bn(cin, mid, 1), nn.ReLU6()]
        layers += [*conv_bn(mid, mid, 3, stride, groups=mid), nn.ReLU6(), *conv_bn(mid, cout, 1)]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.body(x)
        return x + h if self.residual else h


class MobileNetV2(nn.Module):
    """Stem, inverted residuals, 1x1 head, classifier."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_bn(3, 8, 3, 2),
            nn.ReLU6(),
            InvertedResidual(8, 8, 1, 1),
            InvertedResidual(8, 12, 2, 4),
            InvertedResidual(12, 12, 1, 4),
            InvertedResidual(12, 16, 1, 4),
            *conv_bn(16, 48, 1),
            nn.ReLU6(),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(48, classes))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return h


CASES = [Case("mobilenetv2", MobileNetV2, gaussian(4, 3, 16, 16), named("classifier.1"))]
