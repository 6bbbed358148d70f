"""Probabilities where logits are expected: a probability read as a logit decides for class 1 whenever it is positive."""

from __future__ import annotations

from torch import Tensor

ENOUGH = 16  # samples below which logits in [0, 1] are no surprise
SLACK = 1e-3  # of rounding and reduced precision


def could_be_probabilities(scores: Tensor, targets: Tensor) -> bool:
    """Whether scores lie in [0, 1] and, over exclusive classes, sum to 1.

    Args:
        scores: As a model returned them, ``(N,)``, ``(N, 1)``, ``(N, C)`` or ``(N, L)``.
        targets: ``(N,)`` class ids, or ``(N, L)``.
    """
    scores = scores.detach()
    if not bool(((scores >= -SLACK) & (scores <= 1 + SLACK)).all()):
        return False
    if bool((scores == scores.reshape(-1)[0]).all()):
        return False  # a head that starts at zero gives logits of zero
    if scores.dim() != 2 or scores.shape[1] < 2 or scores.shape == targets.shape:
        return True
    return bool(((scores.double().sum(1) - 1).abs() <= SLACK).all())
