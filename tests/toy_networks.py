"""Hand-made networks with their channel groups: no host, every site written down."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairprune_plugin.masks.groups import ChannelGroup, ChannelSite, NormSite


def site(parameter: nn.Parameter, dim: int, unit: Tensor | None = None, index: Tensor | None = None) -> ChannelSite:
    """A site over a whole dimension, one unit per position, unless said otherwise."""
    unit = torch.arange(parameter.shape[dim]) if unit is None else unit
    index = torch.arange(len(unit)) if index is None else index
    return ChannelSite(parameter, f"p{tuple(parameter.shape)}", dim, index, unit)


class Chain(nn.Module):
    """4 → 6 → 5 → 2 with a batch norm and a layer norm; groups of 6 and 5 channels."""

    def __init__(self, widths: tuple[int, int] = (6, 5), *, norms: bool = True) -> None:
        super().__init__()
        first, second = widths
        self.a = nn.Linear(4, first)
        self.bn = nn.BatchNorm1d(first) if norms else nn.Identity()
        self.b = nn.Linear(first, second)
        self.ln = nn.LayerNorm(second) if norms else nn.Identity()
        self.c = nn.Linear(second, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.bn(self.a(x)))  # sigmoid(0) ≠ 0: a hidden channel is hidden by its consumer only
        out: Tensor = self.c(torch.sigmoid(self.ln(self.b(x))))
        return out

    def groups(self) -> tuple[ChannelGroup, ChannelGroup]:
        first, second = self.a.out_features, self.b.out_features
        carried_a = [site(self.a.weight, 0), site(self.a.bias, 0)]
        carried_b = [site(self.b.weight, 0), site(self.b.bias, 0)]
        norms: tuple[NormSite, ...] = ()
        if isinstance(self.ln, nn.LayerNorm):
            carried_a += [site(self.bn.weight, 0), site(self.bn.bias, 0)]
            carried_b += [site(self.ln.weight, 0), site(self.ln.bias, 0)]
            norms = (NormSite(self.ln, torch.arange(second)),)
        return (
            ChannelGroup("a", first, 1, masked=(site(self.b.weight, 1),), carried=tuple(carried_a)),
            ChannelGroup("b", second, 1, masked=(site(self.c.weight, 1),), carried=tuple(carried_b), norms=norms),
        )

    def sliced(self, keep: Tensor) -> Chain:
        """The physically smaller network; call on weights that are not masked (or on any: hidden ones go)."""
        first = keep[: self.a.out_features].nonzero().reshape(-1)
        second = keep[self.a.out_features :].nonzero().reshape(-1)
        small = Chain((len(first), len(second)), norms=isinstance(self.ln, nn.LayerNorm))
        out = {"a": first, "bn": first, "b": second, "ln": second}
        into = {"b": first, "c": second}
        state = {}
        for name, value in self.state_dict().items():
            layer = name.split(".")[0]
            cut = value
            if layer in out and value.dim():
                cut = cut[out[layer]]
            if layer in into and value.dim() == 2:
                cut = cut[:, into[layer]]
            state[name] = cut.clone()
        small.load_state_dict(state)
        return small.train(self.training)
