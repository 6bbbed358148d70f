"""VGG: a plain stack whose last feature map is flattened into a linear layer (Simonyan & Zisserman, 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from .case import Case, gaussian, named


class VGG(nn.Module):
    """Convolutions with bias, 2x2 max pooling, flatten of a 3x3 map, two linear layers."""

    def __init__(self, batch_norm: bool = True, classes: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        for cout, pool in ((8, False), (12, True), (16, False), (16, True)):
            layers.append(nn.Conv2d(cin, cout, 3, padding=1))
            layers += [nn.BatchNorm2d(cout)] if batch_norm else []
            layers += [nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
            cin = cout
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * 9, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.classifier(self.features(x))
        return h


CASES = [
    Case("vgg-bn-flatten", VGG, gaussian(4, 3, 12, 12), named("classifier.4")),
    Case("vgg-plain-flatten", lambda: VGG(False), gaussian(4, 3, 12, 12), named("classifier.4")),
]
