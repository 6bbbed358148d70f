"""Parameters before and after a removal: the host replaces them by smaller ones, an optimizer has to follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...engine.optimizers import kept_positions
from ...masks.masked_weights import MaskedWeights

Renewed = dict[Tensor, tuple[Tensor, list[Tensor]]]  # old parameter → new one, positions kept along each dimension


class ParameterRenewal:
    """Remembers a model's parameters before its hidden channels go.

    Args:
        model: With all of its channels.
        weights: Says which of them are hidden.
    """

    def __init__(self, model: nn.Module, weights: MaskedWeights) -> None:
        self._before = dict(model.named_parameters())
        self._hidden_at = {
            id(entry.parameter): {axis.dim: axis.hidden for axis in entry.axes.values() if len(axis.hidden)}
            for entry in weights.crossed
        }
        self._frozen = [name for name, parameter in self._before.items() if not parameter.requires_grad]

    def complete(self, model: nn.Module) -> Renewed:
        """After the removal: what became of each parameter. Frozen ones are frozen again."""
        after = dict(model.named_parameters())
        for name in self._frozen:
            after[name].requires_grad_(False)
        return {
            old: (after[name], kept_positions(old, self._hidden_at.get(id(old), {})))
            for name, old in self._before.items()
        }


def unchanged(model: nn.Module) -> Renewed:
    """As if nothing had been removed: every parameter with all of its positions."""
    return {p: (p, [torch.arange(size) for size in p.shape]) for p in model.parameters()}


def in_sequence(first: Renewed, second: Renewed) -> Renewed:
    """Two removals as one; ``second`` knows every parameter that ``first`` has led to."""
    return {
        old: (second[now][0], [kept[later] for kept, later in zip(positions, second[now][1], strict=True)])
        for old, (now, positions) in first.items()
    }
