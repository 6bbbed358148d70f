"""Scores of the mask's units: state of the upper level, separate from the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distributed import Ranks
from ..value_checks import where_good
from .config import GRADIENT, BiLevelConfig

PRIOR = 0.5
PRIOR_OF_SINGLE_WEIGHTS = 0.8


class MaskScores:
    """One score per unit; the projection keeps the highest.

    Args:
        initial: ``(U,)`` non-negative saliency of the units before the first mask step (the group magnitude):
            a deterministic start, and afterwards the prior of what is learned.
        config: Score rule and its constants.
        single: ``(U,)`` bool: units of a single weight, which lean more on the prior; default: none is.
    """

    def __init__(self, initial: Tensor, config: BiLevelConfig, single: Tensor | None = None) -> None:
        self.config = config
        self.prior = _prior(initial, config, single)
        self.initial = initial.clone()
        self.first = torch.zeros_like(initial)
        self.second = torch.zeros_like(initial)
        self.relaxed = self.initial
        if config.score_rule == GRADIENT:
            # Relaxed scores start at their rank in (0, 1): the projected gradient then moves units past each other
            # at a rate that does not depend on the scale of the weights.
            ranks = torch.argsort(torch.argsort(initial, stable=True), stable=True).to(initial.dtype)
            self.relaxed = (ranks + 1) / (len(initial) + 1)
        self._updates = torch.zeros((), dtype=torch.float64, device=initial.device)

    @property
    def updates(self) -> int:
        """Mask steps that have entered the scores."""
        return int(self._updates)

    def update(self, derivative: Tensor, good: Tensor | None = None) -> None:
        """One mask step with dL/dm, ``(U,)``; unless it was ``good`` (0-d bool), the scores stay."""
        decay = self.config.score_decay
        first = (self.first * decay).add_(derivative, alpha=1 - decay)
        second = (self.second * decay).addcmul_(derivative, derivative, value=1 - decay)
        self.first, self.second = where_good(good, first, self.first), where_good(good, second, self.second)
        if self.config.score_rule == GRADIENT:
            scale = derivative.square().mean().sqrt().clamp_min(torch.finfo(derivative.dtype).tiny)
            self.relaxed = where_good(good, self.relaxed - self.config.mask_lr * derivative / scale, self.relaxed)
        self._updates = where_good(good, self._updates + 1, self._updates)

    def value(self) -> Tensor:
        """The scores, ``(U,)``.

        Under the second-moment rule: an estimate of E[(dL/dm)²], the empirical Fisher information of the mask
        (the expected increase of the loss, to second order, when a unit is hidden), with its start-up bias
        removed. At a trained optimum the mean derivative is noise around zero, its square is not. A short run sees few
        squares of each unit: the score is the geometric mean of this estimate and the initial saliency (a prior), whose
        order does not depend on the scale of either.
        """
        if self.config.score_rule == GRADIENT:
            return self.relaxed
        learned = self.second / (1 - self.config.score_decay**self._updates)
        if self.config.prior != 0:
            tiny = torch.finfo(learned.dtype).tiny  # a zero shall not take the other's opinion with it
            learned = learned.clamp_min(tiny) ** (1 - self.prior) * self.initial.clamp_min(tiny) ** self.prior
        return torch.where(self._updates > 0, learned, self.initial)

    def synchronise(self, ranks: Ranks) -> None:
        """All ranks go on with the first one's: a pruner that was built before data parallelism gave every rank the
        same weights has ranked other ones."""
        for name in ("initial", "first", "second", "relaxed"):
            setattr(self, name, ranks.from_first(getattr(self, name)))

    def to(self, device: torch.device) -> None:
        """Moves them to a device, in place."""
        for name in ("initial", "first", "second", "relaxed", "_updates"):
            setattr(self, name, getattr(self, name).to(device))

    def select(self, index: Tensor) -> None:
        """Keeps only some units (those left after channels were removed), ``(U',)`` positions."""
        for name in ("initial", "first", "second", "relaxed"):
            setattr(self, name, getattr(self, name)[index].clone())
        if isinstance(self.prior, Tensor):
            self.prior = self.prior[index].clone()

    def state_dict(self) -> dict[str, Tensor | int]:
        return {
            "initial": self.initial.clone(),
            "first": self.first.clone(),
            "second": self.second.clone(),
            "relaxed": self.relaxed.clone(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        for name in ("initial", "first", "second", "relaxed"):
            value = state[name]
            assert isinstance(value, Tensor)
            setattr(self, name, value.clone())
        self._updates = torch.full_like(self._updates, int(state["updates"]))


def _prior(initial: Tensor, config: BiLevelConfig, single: Tensor | None) -> Tensor | float:
    """Weight of the initial saliency: one for all units, or ``(U,)`` where single weights and larger units mix."""
    if config.prior is not None:
        return config.prior
    if single is None or not bool(single.any()):
        return PRIOR
    if bool(single.all()):
        return PRIOR_OF_SINGLE_WEIGHTS
    single = single.to(initial.device)
    return torch.where(single, PRIOR_OF_SINGLE_WEIGHTS, PRIOR).to(initial.dtype)
