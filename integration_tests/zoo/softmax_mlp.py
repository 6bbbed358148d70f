"""A softmax over hidden features: removing one feature changes all others, so no weight mask is exact."""

from __future__ import annotations

from torch import Tensor, nn

from .case import Case, gaussian, named


class SoftmaxMLP(nn.Module):
    """Linear, softmax over the features, linear, output."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.mix = nn.Linear(10, 16)
        self.body = nn.Sequential(nn.Linear(16, 24), nn.ReLU())
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.body(self.mix(x).softmax(-1)))
        return y


CASES = [Case("softmax-mlp", SoftmaxMLP, gaussian(16, 10), named("fc"), exact=False)]
