"""The pruner's part that looks at a model without training it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..engine.loaders.batches import Forward
from ..engine.loaders.census import discover_groups, read_labels
from ..engine.measure.evaluate import evaluate
from ..errors import TrainingStateError
from ..fairness.evaluation import Evaluation
from ..fairness.lagrangian import TRAIN
from .capture import forward_to_logits
from .steps import Triples


class Measuring:
    """Mixed into :class:`~.pruner.BiFPPruner`."""

    def discover_groups(self: Any, loader: Iterable[Any]) -> tuple[str, ...]:
        """Reads groups that the constraint leaves to the data (``groups=None``) off a loader, before ``compress()``.
        Returns the names of all groups.

        Args:
            loader: Batches of the same form as in training.
        """
        labels = read_labels(Triples(loader, self.fields), self.bound_model, TRAIN)
        discover_groups(self.lagrangian, labels)
        return tuple(name for groups in self.lagrangian.groupings for name in groups.names)

    def measure_dense(
        self: Any, loader: Iterable[Any], *, split: str = TRAIN, forward: Forward | None = None
    ) -> Evaluation:
        """Takes the dense model's rates on a split, which degradation parity compares with; before training, for
        every split that matters (``"train"``, and ``"validation"`` if held-out data move the multipliers).

        Args:
            loader: Batches of the same form as in training.
            split: Name of the split.
            forward: ``(model, inputs) → logits``; inputs are the first item of a batch, or all of a mapping. Default:
                the model is called with them, and the logits are taken from its output as in training (``logits=``).

        Raises:
            TrainingStateError: Once training has begun: the model is no longer the dense one.
            DataError: If the model's output holds no logits.
        """
        if self.engine is not None:
            raise TrainingStateError(
                "measure_dense() came after compress(): the model is not the dense one any more; measure every split before"
            )
        return _measured(self, loader, split, forward, dense=True)

    def evaluate(
        self: Any, loader: Iterable[Any], *, split: str = "test", forward: Forward | None = None
    ) -> Evaluation:
        """Accuracy, per-group rates and verdicts of the model as it is now, on any split; arguments as above."""
        return _measured(self, loader, split, forward)


def _measured(
    pruner: Any, loader: Iterable[Any], split: str, forward: Forward | None, *, dense: bool = False
) -> Evaluation:
    return evaluate(
        pruner.bound_model,
        Triples(loader, pruner.fields),
        pruner.lagrangian,
        split=split,
        forward=forward or forward_to_logits(pruner.fields.logits),
        dense=dense,
    )
