"""Parameters and MACs of a pruner's model: as it is, as it was when dense, and as it will be under a mask."""

from __future__ import annotations

from torch import nn

from ...masks.cost import CostModel, parameter_entries
from ...masks.masked_weights import MaskedWeights
from ..channels.example import Example
from . import macs


class ModelSizes:
    """Counts, all of them by Torch-Pruning's own rules.

    Args:
        model: The pruner's.
        example: MACs are those of these inputs, per sample.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        self._model = model
        self._example = example
        self._dense: tuple[float, int] | None = None

    def now(self) -> tuple[float, int]:
        """MACs and parameters of the model as it is."""
        return macs.count(self._model, self._example.inputs, self._example.forward_fn)

    def dense(self) -> tuple[float, int]:
        """MACs and parameters before anything was removed.

        Counted when somebody asks, at the latest before the first removal: it takes a copy and a forward pass.
        """
        if self._dense is None:
            self._dense = self.now()
        return self._dense

    def cost_model(self, target: str, weights: MaskedWeights) -> CostModel:
        """Size of the model as a function of the mask; ``target`` is ``"params"`` or ``"macs"``."""
        if target == "macs":
            example, model = self._example, self._model
            entries = macs.macs_entries(model, example.inputs, weights, lambda: example.run(model), example.forward_fn)
        else:
            entries = parameter_entries(self._model.parameters(), weights)
        return CostModel(entries, weights.num_units)
