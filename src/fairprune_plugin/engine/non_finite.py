"""Batches whose loss or gradient is NaN or infinite: nothing is learned from them, and nothing of them is left."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..fairness.lagrangian import Lagrangian
from .buffers import BufferGuard
from .trained_model import TrainedModel

LOOKED_AT = 2**16  # entries of the first gradient in which something that is not finite is looked for


class NonFiniteBatches:
    """Refuses such batches. On an accelerator nobody waits to find out: see :mod:`~..value_checks`.

    Args:
        trained: The model.
        lagrangian: Has counted the batch when it is refused.

    Attributes:
        buffers: As of the last good step.
    """

    def __init__(self, trained: TrainedModel, lagrangian: Lagrangian) -> None:
        self.trained = trained
        self.lagrangian = lagrangian
        self.buffers = BufferGuard(trained.module)

    def refuse_loss(self, value: Tensor, step: int) -> None:
        """Of a batch's loss, 0-d."""
        checks = self.lagrangian.checks

        def error() -> NonFiniteError:
            return NonFiniteError(
                f"the loss became {float(value)} at training step {step}: this batch changed neither "
                "weights nor mask, and running statistics are those of the step before; look at its inputs, or "
                "lower the learning rate if weights have grown out of bounds"
            )

        if checks.defers(value.device):
            checks.note(~torch.isfinite(value), error)
        elif not math.isfinite(float(value)):
            self.undo()
            raise error()

    def refuse_gradients(self, gradients: list[Tensor], step: int) -> Tensor | None:
        """A loss can be finite and its gradient not; one more optimizer step would ruin the weights for good.

        Looked at are the first gradient and those of all vectors (biases, norm affines): what overflows in the
        backward pass reaches the layers before it, and these tensors are small.

        Returns:
            As :meth:`refuse_unless`.
        """
        gradients = [entries(gradient) for gradient in gradients]
        vectors = [gradient.reshape(-1) for gradient in gradients[1:] if gradient.dim() <= 1]
        # A sum takes a third of the time of a norm, and one norm of all of them a fraction of that of each.
        size = some_of_each_row(gradients[0]).sum()
        if vectors:
            size = size + torch.linalg.vector_norm(torch.cat(vectors))
        return self.refuse_unless(torch.isfinite(self.trained.total(size)), step)

    def refuse_unless(self, finite: Tensor, step: int) -> Tensor | None:
        """Of what was computed from a batch's gradients, 0-d bool.

        Returns:
            Whether the step is good, 0-d bool, where nobody has looked yet; None where it is known to be.
        """
        checks = self.lagrangian.checks

        def error() -> NonFiniteError:
            return NonFiniteError(
                f"the gradient became NaN or infinite at training step {step} (the loss itself was "
                "finite): weights, mask and running statistics are those of the step before; lower the learning rate or "
                "clip gradients (under a GradScaler, where this is no error: regularize(model, scaler=…, optimizer=…))"
            )

        if checks.defers(finite.device):
            checks.note(~finite, error)
        elif not bool(finite):
            for parameter in self.trained.parameters:
                parameter.grad = None
            self.undo()
            raise error()
        return checks.good()

    def all_finite(self, gradients: list[Tensor]) -> Tensor:
        """Whether this step is good so far and all of its gradients are finite, 0-d bool; nothing is refused."""
        largest = torch.stack(torch._foreach_norm([entries(gradient) for gradient in gradients], torch.inf)).sum()
        finite = torch.isfinite(largest)
        good = self.lagrangian.checks.good()
        return finite if good is None else good & finite

    def undo(self) -> None:
        """Counts and running statistics as they were before the batch."""
        self.buffers.restore()
        self.lagrangian.uncount_last()

    def make_harmless(self, good: Tensor) -> None:
        """If the step was bad, which nobody has looked at yet: no gradients, and running statistics as they were."""
        bad = ~good
        for gradient in self.trained.gradients():
            entries(gradient).masked_fill_(bad, 0)
        self.buffers.settle(good)


def entries(gradient: Tensor) -> Tensor:
    """The values of a gradient, those that are there of a sparse one."""
    return gradient._values() if gradient.is_sparse else gradient


def some_of_each_row(gradient: Tensor) -> Tensor:
    """A part of a gradient that is large: what comes from behind a layer and is not finite is a factor of whole rows."""
    if gradient.dim() < 2 or gradient.numel() <= LOOKED_AT:
        return gradient
    return gradient.flatten(1)[:, : max(1, LOOKED_AT // len(gradient))]
