"""After channels were removed: does the model still say what it said with them hidden?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...engine.measure.evaluate import mode
from ...warn import warn_caller
from ..channels.example import Example
from ..channels.tracing import undisturbed
from .selfcheck import close


class SameOutputs:
    """Outputs on the example inputs, in eval mode, before a removal; the check on copies came before training, and what it
    cannot see is seen here.

    Args:
        model: With its channels hidden.
        example: How it is called.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        self._model, self._example = model, example
        self._before = self._outputs()

    def warn_if_changed(self) -> None:
        """After the removal."""
        after = self._outputs()
        if self._before is None or (after is not None and _equal(self._before, after)):
            return
        got = (
            "cannot run on the example inputs any more" if after is None else "has other outputs on the example inputs"
        )
        warn_caller(
            f"the model {got} now that its hidden channels are removed: something in it depends on how many channels there "
            "are. Compare accuracies before you use it, and prune a dense model again with the layers around that in "
            "ignored_layers"
        )

    def _outputs(self) -> list[Tensor] | None:
        try:
            with undisturbed(self._model), mode(self._model, training=False), torch.no_grad():
                return [tensor.clone() for tensor in self._example.outputs(self._model)]
        except Exception:  # example inputs that are gone, or on another device by now: the user's own business
            return None


def _equal(before: list[Tensor], after: list[Any]) -> bool:
    return len(before) == len(after) and all(close(a, b) for a, b in zip(before, after, strict=True))
