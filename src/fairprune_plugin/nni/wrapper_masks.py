"""The engine's mask in NNI's wrappers: how they apply it while it is learned, and once it is final."""

from __future__ import annotations

import torch

from ..masks.masked_weights import MaskedWeights
from .apply_method import BYPASS, PRODUCT, STRAIGHT_THROUGH
from .unit_set import Key
from .units import Units


class WrapperMasks:
    """Masks of a pruner's targets.

    Args:
        units: Of the pruner.
        weights: The engine's mask over them.
    """

    def __init__(self, units: Units, weights: MaskedWeights) -> None:
        self._units = units
        self._weights = weights

    def begin_learning(self) -> None:
        """The engine masks its weights itself; the wrappers must not hide their gradients from it."""
        owned = {id(parameter.parameter) for parameter in self._weights.parameters}
        for key in self._units.keys:
            self._units.space(key).apply_method = self._while_learning(key, owned)

    def _while_learning(self, key: Key, owned: set[int]) -> str:
        if self._units.trained_bare(key):
            return BYPASS
        return STRAIGHT_THROUGH if id(self._units.space(key).target) in owned else PRODUCT

    @torch.no_grad()
    def push(self) -> None:
        """Shows the mask as it is now."""
        for key in self._units.keys:
            self._units.space(key).mask = self._units.mask(key, self._weights.keep)

    @torch.no_grad()
    def bake(self) -> None:
        """From here on NNI's own product applies the masks; hidden weights are zero, so that the unwrapped model
        computes the same."""
        for key in self._units.keys:
            space = self._units.space(key)
            space.apply_method = PRODUCT
            assert space.target is not None
            space.target.data.mul_(space.mask)
