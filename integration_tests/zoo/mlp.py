"""Multilayer perceptrons: layer norm, batch norm with and without affine parameters."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .case import Case, gaussian, named, of_type


class MLP(nn.Module):
    """Norm, activation, and one residual block; ``f(0)`` of the softplus is not zero."""

    def __init__(self, norm: Callable[[int], nn.Module], classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(10, 24), norm(24), nn.ReLU())
        self.block = nn.Sequential(nn.Linear(24, 32), norm(32), nn.Softplus(), nn.Linear(32, 24))
        self.tail = nn.Sequential(norm(24), nn.Linear(24, 16), nn.Tanh())
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        y: Tensor = self.fc(self.tail(h + self.block(h)))
        return y


def _batch_norm_no_affine(width: int) -> nn.Module:
    return nn.BatchNorm1d(width, affine=False)


_X = gaussian(16, 10)

CASES = [
    Case("mlp-layernorm", lambda: MLP(nn.LayerNorm), _X, named("fc"), cross_channel_norms=of_type(nn.LayerNorm)),
    Case("mlp-bn-affine", lambda: MLP(nn.BatchNorm1d), _X, named("fc")),
    Case("mlp-bn-no-affine", lambda: MLP(_batch_norm_no_affine), _X, named("fc")),
]
