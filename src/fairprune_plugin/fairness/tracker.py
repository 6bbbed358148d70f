"""One constraint during training: its rates, running counts, multipliers and the two kinds of violation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, TrainingStateError
from . import parity
from .constraints import Constraint
from .counts import RateCounts
from .multipliers import PAPER, MultiplierConfig, Multipliers
from .outputs import Outputs


class ConstraintTracker:
    """Binds a :class:`~.constraints.Constraint` to a task with a known number of classes.

    Args:
        constraint: What is asked for.
        num_classes: Of the task.
        config: How the multipliers move.
    """

    def __init__(self, constraint: Constraint, num_classes: int, config: MultiplierConfig) -> None:
        if config.rule == PAPER and constraint.num_groups != 2:
            raise ConfigError(
                f"the paper's literal penalty is defined for two groups, got {constraint.num_groups}: use "
                "rule='dual_ascent'"
            )
        self.constraint = constraint
        self.num_classes = num_classes
        self.config = config
        self.rates = constraint.rates(num_classes)
        self.counts = self.new_counts(decay=config.decay)
        self.multipliers = Multipliers(len(self.rates), constraint.num_groups, config)
        self.dense_rates: dict[str, Tensor] = {}

    def new_counts(self, *, decay: float = 1.0) -> RateCounts:
        """Fresh counts of this constraint's rates, for a pass over a split."""
        return RateCounts(self.rates, self.constraint.num_groups, decay=decay)

    def penalty(self, outputs: Outputs, groups: Tensor, *, count: bool = True) -> Tensor:
        """Σ λ · surrogate violation of a batch; unless ``count`` is off, it enters the running counts first.

        The surrogate rate of a group is (1/N) Σ u_i / P(group, condition), Eq. 7/8 of the paper with the sign
        repaired: a sum over the batch divided by the *running* share of the group, so that a group which is
        rare in a batch is not divided by a handful of samples, and an absent one contributes nothing.
        """
        if count:
            self.counts.update(outputs, groups)
        strict = self.relative(self.counts.values(), "train")
        weights = parity.reference_weights(strict, self.counts.totals, self.constraint.reference_key)
        shares = self.counts.shares()
        scale = torch.where(shares > 0, 1 / (shares * len(groups)), torch.zeros_like(shares)).float()
        decisions = torch.stack([rate.surrogate(outputs, self.constraint.surrogate) for rate in self.rates])
        conditions = torch.stack([rate.condition(outputs.targets) for rate in self.rates])
        sums = torch.zeros(scale.shape, device=groups.device).index_add(1, groups, decisions.float() * conditions)
        surrogate_rates = sums * scale
        if self.config.rule == PAPER:
            return (surrogate_rates[:, 1] - surrogate_rates[:, 0]).sum()
        deviation = surrogate_rates - (weights.float() * surrogate_rates).sum(dim=1, keepdim=True)
        return self.multipliers.penalty(
            parity.violations(deviation, self.constraint.tolerance, self.constraint.reference_key)
        )

    def strict_violation(self, counts: RateCounts, split: str) -> Tensor:
        """Both one-sided strict violations, ``(2, R, G)``; an absent group is not a violation.

        Args:
            counts: Of the split, from :meth:`new_counts` or the running ones.
            split: Which dense rates to compare with, for :class:`~.constraints.DegradationParity`.
        """
        rates = self.relative(counts.values(), split)
        weights = parity.reference_weights(rates, counts.totals, self.constraint.reference_key)
        known = ~torch.isnan(rates) & ((~torch.isnan(rates)).sum(dim=1, keepdim=True) >= 2)
        both = parity.violations(
            parity.deviations(rates, weights), self.constraint.tolerance, self.constraint.reference_key
        )
        return torch.where(known, both, torch.zeros_like(both))

    def gaps(self, counts: RateCounts, split: str) -> Tensor:
        """The gap of every rate, ``(R,)``: what the tolerance bounds; NaN where undefined."""
        rates = self.relative(counts.values(), split)
        weights = parity.reference_weights(rates, counts.totals, self.constraint.reference_key)
        return parity.gap(rates, weights, self.constraint.reference_key)

    def relative(self, rates: Tensor, split: str) -> Tensor:
        """The rates the constraint compares: themselves, or their change against the dense model.

        Raises:
            TrainingStateError: If the dense rates of that split were never measured.
        """
        if not self.constraint.relative_to_dense:
            return rates
        if split not in self.dense_rates:
            raise TrainingStateError(
                f"{self.constraint.name} compares with the dense model, whose rates on the {split!r} split are "
                f"unknown: call pruner.measure_dense(loader, split={split!r}) before training, for every split you will "
                "evaluate (fit does it for its own two)"
            )
        return rates - self.dense_rates[split].to(rates.device)

    def dual_step(self, counts: RateCounts, split: str, *, steps: int = 1) -> None:
        """Moves the multipliers by the strict violation of these counts."""
        if self.config.rule != PAPER:
            self.multipliers.step(self.strict_violation(counts, split), steps=steps)

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "counts": self.counts.state_dict(),
            "multipliers": self.multipliers.state_dict(),
            "dense_rates": dict(self.dense_rates),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.load_state_dict(state["counts"])
        self.multipliers.load_state_dict(state["multipliers"])
        self.dense_rates = dict(state["dense_rates"])
