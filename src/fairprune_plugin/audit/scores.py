"""Are the scores logits? Probabilities in their place are detected, or turned into logits where they are announced."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..warn import warn_caller

LOGITS = "logits"
PROBABILITIES = "probabilities"
_SMALLEST = 1e-12  # keeps the logit of a probability of 0 or 1 finite
_ROUNDING = 1e-6  # single precision gives probabilities such as 1.0000001


def as_logits(batches: list[Tensor], scores: str, whose: str, targets: list[Tensor]) -> tuple[list[Tensor], list[str]]:
    """The batches as logits, and notes for the reader; warns of probabilities that were not announced.

    Raises:
        ConfigError: For ``scores`` other than ``"logits"`` and ``"probabilities"``.
        DataError: For announced probabilities outside [0, 1], or rows of class probabilities that do not sum to 1.
    """
    if scores not in (LOGITS, PROBABILITIES):
        raise ConfigError(f"expected scores={LOGITS!r} or {PROBABILITIES!r}, got {scores!r}")
    likely = all(
        _could_be_probabilities(batch, target) for batch, target in zip(batches, targets, strict=True) if batch.numel()
    )
    if scores == LOGITS:
        if not likely:
            return batches, []
        note = (
            f"all outputs of {whose} lie in [0, 1], as probabilities do: expected logits (a probability read as a logit "
            "is a decision for class 1 whenever it is positive). If they are probabilities, pass scores='probabilities'"
        )
        warn_caller(note)
        return batches, [note]
    if not likely:
        raise DataError(
            f"expected probabilities (scores='probabilities'), in [0, 1] and summing to 1 over the classes, but {whose} "
            "gave other values: pass scores='logits'"
        )
    return [_logit(batch, target) for batch, target in zip(batches, targets, strict=True)], []


def _exclusive(scores: Tensor, targets: Tensor) -> bool:
    """Whether columns are classes (one of which is right) and not independent labels."""
    return scores.dim() == 2 and scores.shape[1] > 1 and scores.shape != targets.shape


def _could_be_probabilities(scores: Tensor, targets: Tensor) -> bool:
    if not bool(((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING)).all()):
        return False
    if not _exclusive(scores, targets):
        return True
    sums = scores.double().sum(1)
    return bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def _logit(scores: Tensor, targets: Tensor) -> Tensor:
    scores = scores.double()
    if _exclusive(scores, targets):
        return scores.clamp_min(_SMALLEST).log()
    return torch.logit(scores, eps=_SMALLEST)
