"""One constraint during training: its rates, running counts, multipliers and the two kinds of violation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..distributed import ALONE, Ranks
from ..errors import ConfigError, TrainingStateError
from . import parity
from .constraint import Constraint
from .counts import RateCounts
from .families import Families
from .intervals import centre_shift, ends, gap_contrast, gap_half_width
from .multipliers import AUGMENTED, PAPER, MultiplierConfig, Multipliers
from .outputs import Outputs, Task


class ConstraintTracker:
    """Binds a :class:`~.constraint.Constraint` with known groups to a task.

    Args:
        constraint: What is asked for.
        task: What is predicted.
        config: How the multipliers move.
        ranks: Processes whose training batches are counted together.
    """

    def __init__(self, constraint: Constraint, task: Task, config: MultiplierConfig, ranks: Ranks = ALONE) -> None:
        if config.rule == PAPER and constraint.num_groups != 2:
            raise ConfigError(
                f"the paper's literal penalty is defined for two groups, got {constraint.num_groups}: use "
                "rule='dual_ascent'"
            )
        self.constraint = constraint
        self.task = task
        self.config = config
        self.rates = constraint.rates(task)
        self.families = Families(*constraint.families(task))
        self.ranks = ranks
        self.counts = self.new_counts(decay=config.decay, reduce=ranks.sum if ranks.size > 1 else None)
        self.multipliers = Multipliers(len(constraint.sides), len(self.families.names), constraint.num_groups, config)
        self.dense_rates: dict[str, Tensor] = {}
        self.sizes: dict[str, Tensor] = {}
        self.steps = 0
        self._last_standing: tuple[Tensor, str, tuple[Tensor, Tensor, Tensor]] | None = None

    def new_counts(self, *, decay: float = 1.0, reduce: Callable[[Tensor], Tensor] | None = None) -> RateCounts:
        """Fresh counts of this constraint's rates, for a pass over a split."""
        return RateCounts(self.rates, self.constraint.num_groups, decay=decay, reduce=reduce)

    def penalty(
        self,
        outputs: Outputs,
        groups: Tensor,
        *,
        count: bool = True,
        batch: float | None = None,
        good: Tensor | None = None,
    ) -> Tensor:
        """Σ λ · surrogate violation of a batch; unless ``count`` is off, it enters the running counts first.

        The surrogate rate of a group is (1/N) Σ u_i / P(group, condition), Eq. 7/8 of the paper with the sign
        repaired: a sum over the batch divided by the *running* share of the group, so that a group which is
        rare in a batch is not divided by a handful of samples, and an absent one contributes nothing.

        Under data parallelism N is the mean size of the ranks' batches. With W ranks, the mean over them of
        Σ_{i on rank} u_i / (N · P) is Σ_i u_i / (W · N · P) over the samples of all: averaging gradients, as data
        parallelism does, gives the gradient of one process that has the whole batch.

        The penalty must be linear in these rates: the square of one batch's rate is mostly the luck of who is in the batch.
        Under the augmented Lagrangian the value is therefore that of the running strict rates, the gradient the batch's.

        Args:
            outputs: Of the batch.
            groups: ``(N,)`` group ids.
            count: Whether the batch enters the running counts.
            batch: Mean size of the ranks' batches; default: of this one.
            good: 0-d bool: a batch that is not good does not enter the counts.
        """
        if count:
            self.counts.update(outputs, groups, good)
        else:
            self.counts.to(groups.device)
        rates, weights, known = self._standing(self.counts, "train")
        shares = self.counts.shares()
        size = len(groups) if batch is None else batch
        scale = torch.where(shares > 0, 1 / (shares * size), torch.zeros_like(shares)).float()
        decisions = torch.stack([rate.surrogate_values(outputs, self.constraint.surrogate) for rate in self.rates])
        conditions = torch.stack([rate.counted(outputs.targets) for rate in self.rates])
        sums = torch.zeros(scale.shape, dtype=torch.float32, device=groups.device).index_add(
            1, groups, decisions.float() * conditions
        )
        usable = self._usable(self.counts, "train")
        surrogate_rates = self.families.mean(sums * scale, usable)
        if self.constraint.relative_to_dense:
            dense = self.dense_rates["train"].to(scale).nan_to_num(0.0)
            surrogate_rates = surrogate_rates - self.families.mean(dense, usable)
        if self.config.rule == AUGMENTED:
            surrogate_rates = rates.nan_to_num(0.0).float() + (surrogate_rates - surrogate_rates.detach())
        if self.config.rule == PAPER:
            return (surrogate_rates[:, 1] - surrogate_rates[:, 0]).sum()
        deviation = surrogate_rates - (weights.float() * surrogate_rates).sum(dim=1, keepdim=True)
        return self.multipliers.penalty(
            torch.where(known, self._violations(deviation, self.constraint.tolerance), deviation.new_zeros(()))
        )

    def strict_violation(self, counts: RateCounts, split: str, *, tolerance: Tensor | None = None) -> Tensor:
        """The one-sided strict violations, ``(S, R, G)``; an absent or too small group is not a violation.

        Args:
            counts: Of the split, from :meth:`new_counts` or the running ones.
            split: Which dense rates to compare with, for :class:`~.constraints.DegradationParity`.
            tolerance: ``(R,)`` instead of the constraint's own.
        """
        rates, weights, known = self._standing(counts, split)
        allowed = self.constraint.tolerance if tolerance is None else tolerance[:, None]
        both = self._violations(parity.deviations(rates, weights), allowed)
        return torch.where(known, both, torch.zeros_like(both))

    def gaps(self, counts: RateCounts, split: str) -> Tensor:
        """The gap of every compared rate, ``(R,)``: what the tolerance bounds; NaN where undefined."""
        rates = self.compared(counts, split)
        return parity.gap(rates, self._reference(rates, counts), self.constraint.reference_key, self.constraint.sides)

    def half_widths(self, counts: RateCounts, split: str) -> Tensor:
        """Half widths of the gaps' 95 % intervals, ``(R,)``; NaN where undefined.

        For constraints relative to the dense model its rates are taken as known: a paired comparison, as
        :func:`~..audit.audit` makes it, is sharper.
        """
        rates = self.compared(counts, split)
        variances = self.families.variance(counts.variances(), self._usable(counts, split))
        weights = self._reference(rates, counts)
        return gap_half_width(rates, variances, weights, self.constraint.reference_key, self.constraint.sides)

    def intervals(self, counts: RateCounts, split: str) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the gaps' 95 % intervals, ``(R,)`` each; NaN where undefined.

        As far as :meth:`half_widths` says, around the gap and around what it is with pseudo-observations
        (:func:`~.intervals.centre_shift`).
        """
        gaps, halves = self.gaps(counts, split), self.half_widths(counts, split)
        rates, usable, variances = self.compared(counts, split), self._usable(counts, split), counts.variances()
        contrast = gap_contrast(
            rates,
            self.families.variance(variances, usable),
            self._reference(rates, counts),
            self.constraint.reference_key,
            self.constraint.sides,
        )
        values, middle, shifts = counts.values(), counts.middle(), torch.zeros_like(gaps)
        for row in range(len(gaps)):
            members, shares = self.families.shares(row, usable)
            known = (values[members], counts.totals[members], variances[members], middle[members])
            shifts[row] = centre_shift(contrast[row] * shares, *known)
        return ends(gaps, gaps + shifts, halves, two_sided=len(self.constraint.sides) == 2)

    def compared(self, counts: RateCounts, split: str) -> Tensor:
        """The rates that are compared, ``(R, G)``: relative to the dense model where the constraint is, averaged
        where it asks for it, NaN where nothing was counted or fewer samples than ``min_group_size``."""
        return self.families.mean(
            self.relative(counts.values(), split), self._usable(counts, split), undefined=torch.nan
        )

    def relative(self, rates: Tensor, split: str) -> Tensor:
        """Rates ``(R, G)`` themselves, or their change against the dense model.

        Raises:
            TrainingStateError: If the dense rates of that split were never measured.
        """
        if not self.constraint.relative_to_dense:
            return rates
        if split not in self.dense_rates:
            raise TrainingStateError(
                f"{self.constraint.name} compares with the dense model, whose rates on the {split!r} split are "
                f"unknown: call pruner.measure_dense(loader, split={split!r}) before training, for every split you will "
                "evaluate"
            )
        return rates - self.dense_rates[split].to(rates.device)

    def dual_step(
        self,
        counts: RateCounts,
        split: str,
        *,
        steps: int = 1,
        and_training: bool = False,
        good: Tensor | None = None,
    ) -> None:
        """Moves the multipliers by the strict violation of these counts, once ``warmup`` steps are over.

        Args:
            counts: Of the data that drive the multipliers.
            split: Their name.
            steps: Training steps that this dual step stands for.
            and_training: Whether the larger violation of these and of the running training counts is taken.
            good: 0-d bool, whether the multipliers move at all.
        """
        self.steps += steps
        if self.config.rule == PAPER or self.steps <= self.config.warmup:
            return
        violation = self._driving_violation(counts, split)
        if and_training:
            violation = torch.maximum(violation, self._driving_violation(self.counts, "train"))
        self.multipliers.step(violation, steps=steps, good=good)

    def _driving_violation(self, counts: RateCounts, split: str) -> Tensor:
        tolerance = None
        if self.config.margin:
            halves = self.half_widths(counts, split).nan_to_num(0.0)
            tolerance = (self.constraint.tolerance - self.config.margin * halves).clamp_min(0)
        return self.strict_violation(counts, split, tolerance=tolerance)

    def state_dict(self) -> dict[str, Any]:
        return {
            "task": (self.task.num_classes, self.task.num_labels),
            "counts": self.counts.state_dict(),
            "multipliers": self.multipliers.state_dict(),
            "dense_rates": dict(self.dense_rates),
            "sizes": dict(self.sizes),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.load_state_dict(state["counts"])
        self.multipliers.load_state_dict(state["multipliers"])
        self.dense_rates = dict(state["dense_rates"])
        self.sizes = dict(state["sizes"])
        self.steps = state["steps"]
        self._last_standing = None

    def _standing(self, counts: RateCounts, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Compared rates, weights of their reference and which deviations mean something, each ``(R, G)``.

        In a training step the penalty asks for it, and the dual step again.
        """
        known = self._last_standing
        if known is not None and known[0] is counts.totals and known[1] == split:
            return known[2]
        rates = self.compared(counts, split)
        weights = self._reference(rates, counts)
        standing = (rates, weights, parity.defined(rates, weights, self.constraint.reference_key))
        self._last_standing = (counts.totals, split, standing)
        return standing

    def _usable(self, counts: RateCounts, split: str) -> Tensor:
        """Which rates enter a comparison, ``(R, G)`` bool: those with samples, and enough of them."""
        if not self.constraint.min_group_size:
            return counts.totals > 0
        enough = self.sizes.get(split, counts.totals).to(counts.totals.device) >= self.constraint.min_group_size
        return (counts.totals > 0) & enough

    def _reference(self, rates: Tensor, counts: RateCounts) -> Tensor:
        totals = self.families.total(counts.totals)
        return parity.reference_weights(rates, totals, self.constraint.reference_key)

    def _violations(self, deviation: Tensor, tolerance: float | Tensor) -> Tensor:
        return parity.violations(deviation, tolerance, self.constraint.reference_key, self.constraint.sides)
