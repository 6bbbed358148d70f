"""What the constraint needs and NNI does not hand over: the logits of a training step, and fields of its batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from nni.compression.utils.evaluator import ForwardHook
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..engine.loaders.batches import Forward, default_forward
from ..errors import DataError, TrainingStateError

Field = Callable[[Any], Any]


class LogitsHook:
    """Keeps the output of the model's last forward pass with gradients, until it is taken.

    Args:
        model: The wrapped model.
        logits: Output of the model → logits; default :func:`default_logits`.
    """

    def __init__(self, model: nn.Module, logits: Field | None) -> None:
        self._read = logits
        self._output: Any = None
        self.hook = ForwardHook(model, "model", lambda _: self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            self._output = output

    def take(self) -> Tensor:
        """The logits of this training step.

        Raises:
            TrainingStateError: If the model was not called in it.
            DataError: If its output holds no logits.
        """
        output, self._output = self._output, None
        if output is None:
            raise TrainingStateError(
                "training_step returned a loss without calling the model that the evaluator passes to training_func: "
                "the constraint needs its logits; call that very model (not a copy of it) inside training_step"
            )
        return logits_of(output, self._read)


def logits_of(output: Any, read: Field | None) -> Tensor:
    """The logits in a model's output.

    Args:
        output: Of the model.
        read: Output of the model → logits; default :func:`default_logits`.

    Raises:
        DataError: If it holds none.
    """
    logits = (read or default_logits)(output)
    if not isinstance(logits, Tensor):
        raise DataError(
            f"expected the logits as a tensor, got {type(logits).__name__}: pass logits=lambda output: …, which "
            "picks them from the model's output"
        )
    return logits


def forward_to_logits(read: Field | None) -> Forward:
    """``(model, inputs) → logits`` that calls the model as the engine does, and takes the logits as a training step does.

    Args:
        read: Output of the model → logits; default :func:`default_logits`.
    """

    def forward(model: nn.Module, inputs: Any) -> Tensor:
        # A hook sees the whole output, of which default_forward would keep the part that it knows.
        handle = model.register_forward_hook(lambda _module, _args, output: logits_of(output, read))
        try:
            return default_forward(model, inputs)
        finally:
            handle.remove()

    return forward


def default_logits(output: Any) -> Any:
    """The output itself, its ``logits``, or the first item of a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, tuple | list) and output else output


def default_targets(batch: Any) -> Any:
    """``batch["labels"]`` of a mapping, else ``batch[1]``."""
    return batch["labels"] if isinstance(batch, Mapping) else batch[1]


def field(batch: Any, read: Field, name: str, device: torch.device) -> Any:
    """A field of a batch, on the device of the logits.

    Raises:
        DataError: If the batch does not have it, with a description of the batch.
    """
    try:
        value = read(batch)
    except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"the batch has no {name} attribute: {name}=… raised {type(error).__name__}: {error} on a batch of "
            f"{_describe(batch)}; make the data loader yield it (inputs, labels, group ids) or correct {name}=…"
        ) from error
    if value is None:
        raise DataError(f"{name}=… returned None for a batch of {_describe(batch)}")
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"keys {', '.join(map(str, batch))}"
    if isinstance(batch, tuple | list):
        return f"{len(batch)} items"
    return f"type {type(batch).__name__}"
