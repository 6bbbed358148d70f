"""Single weights as units: what scores, masks and tickets of this package work on when nothing structured goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.masks.element_budget import Member, hide_by_elements
from fairprune_plugin.masks.groups import BlockGroup, BlockSite
from fairprune_plugin.masks.masked_weights import MaskedWeights

from .context import ScoringContext

EPSILON = 1e-6  # 0.7 · 10 weights are 7.000000000000001 in floating point, or 6.999…


class SingleWeights:
    """One unit per weight of every convolution and linear layer, one budget over all of them.

    Args:
        model: Masked in place.
        ratio: Share of these weights that goes in the end, in [0, 1). One of every layer stays.
        ignored: Layers that keep their weights, and all that is inside of them.

    Attributes:
        names: The layers, in the model's order.
        weights: The mask, layer after layer.

    Raises:
        ConfigError: If no layer is left.
    """

    def __init__(self, model: nn.Module, ratio: float, ignored: Iterable[nn.Module] = ()) -> None:
        left_out = {id(inner) for layer in ignored for inner in layer.modules()}
        layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and id(module) not in left_out
        }
        if not layers:
            raise ConfigError("expected a convolution or linear layer that is not ignored, got none: nothing to prune")
        self.model = model
        self.ratio = ratio
        self.names = tuple(layers)
        self.weights = MaskedWeights(
            tuple(
                BlockGroup(name, layer.weight.numel(), (BlockSite(layer.weight, name, (1,) * layer.weight.dim()),))
                for name, layer in layers.items()
            )
        )

    def project(self, scores: Tensor, progress: float = 1.0) -> Tensor:
        """The mask ``(U,)`` bool of the highest scores over all layers, by the rule that BiFP's scores follow in NNI.

        Args:
            scores: ``(U,)``.
            progress: Share of the final ratio that is due, in [0, 1].
        """
        keep = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        slices = [self.weights.of(index) for index in range(len(self.names))]
        members = [Member(part, grain=1, most_hidden=part.stop - part.start - 1) for part in slices]
        hide_by_elements(keep, scores, members, int(self.weights.num_units * self.ratio * progress + EPSILON))
        return keep

    def of_masks(self, masks: Mapping[str, Mapping[str, Tensor | None]]) -> Tensor:
        """NNI's masks as one mask ``(U,)`` bool.

        Raises:
            ConfigError: If a layer has no mask.
        """
        parts = []
        for name, parameter in zip(self.names, self._parameters(), strict=True):
            mask = masks.get(name, {}).get("weight")
            if mask is None:
                raise ConfigError(f"expected a mask of {name}.weight, got masks of {', '.join(masks)}")
            parts.append(mask.expand(parameter.shape).reshape(-1).bool())
        return torch.cat(parts)

    def left(self) -> int:
        """Weights that are not zero."""
        return sum(int(torch.count_nonzero(parameter)) for parameter in self._parameters())

    def _parameters(self) -> list[Tensor]:
        return [group.masked[0].parameter for group in self.weights.groups if isinstance(group, BlockGroup)]


def random_weights(context: ScoringContext) -> Tensor:
    """Uniform random scores ``(U,)`` by the context's seed."""
    generator = torch.Generator().manual_seed(context.seed)
    drawn = torch.rand(context.weights.num_units, generator=generator)
    return context.finish(drawn.to(context.weights.keep.device))
