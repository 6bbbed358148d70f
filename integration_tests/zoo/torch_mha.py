"""An encoder on ``nn.MultiheadAttention``: one width serves the residual stream and the heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .case import Case, gaussian, named, of_type


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        y: Tensor = x + self.fc2(self.fc1(self.norm2(x)).relu())
        return y


class MHAEncoder(nn.Module):
    """Token projection, two encoder layers, mean pooling, classifier."""

    def __init__(self, width: int = 16, heads: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.layers = nn.Sequential(*[EncoderLayer(width, heads, 24) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.norm(self.layers(self.embed(x)).mean(1)))
        return y


def _kwargs(model: nn.Module) -> dict[str, Any]:
    heads = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    return {"out_channel_groups": heads}


CASES = [
    Case(
        "torch-mha-encoder",
        MHAEncoder,
        gaussian(4, 5, 6),
        named("fc"),
        _kwargs,
        exact=False,
        cross_channel_norms=of_type(nn.LayerNorm),
    )
]
