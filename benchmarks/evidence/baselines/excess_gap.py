"""CEAG: no group shall lose more accuracy than everybody does (Hashemizadeh et al., *Balancing Act*, ICLR 2024)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fairprune_plugin import ExcessAccuracyGap
from fairprune_plugin.engine.loaders.batches import Forward, default_forward
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.groups import Groups

from .accuracies import group_accuracies
from .group_losses import GroupLosses

BUFFER = 40  # samples per group, as in the authors' runs on faces


class ExcessGapObjective:
    """The constrained accuracy-gap problem as the paper trains it, in place of the task loss.

    For each group one constraint ψ_g = (A_g(dense) − A_g) − (A(dense) − A) − ε ≤ 0. The multipliers see accuracies (of
    the last ``buffer`` training samples of each group; groups whose buffer is not full yet wait), the weights see the
    losses in their place: L + Σ_g λ_g (L_g − L), over the groups that a batch has. The multipliers move first, then the
    weights (alternating dual-primal steps without momentum). Mitigation begins when pruning has ended: before
    ``begin`` calls it is the plain cross entropy.

    One difference: everybody's accuracy weighs the buffers by the groups' shares of the training data, as A(dense) does;
    equal weights would make ψ differ from 0 for a model that has not changed.

    Args:
        dense_accuracies: ``(G,)`` of the dense model on the training data.
        shares: ``(G,)`` of the groups in the training data.
        groups: As constraints take them.
        tolerance: ε ≥ 0.
        dual_lr: Step size of the multipliers. The 1e-4 of the authors' runs on faces goes with tens of thousands of
            steps; short runs need more, and a search.
        begin: Training batches before mitigation.
        buffer: Samples remembered per group.

    Attributes:
        multipliers: λ ≥ 0, ``(G,)``.

    Raises:
        ConfigError: For numbers out of range.
    """

    def __init__(
        self,
        dense_accuracies: Tensor,
        shares: Tensor,
        *,
        groups: Any,
        tolerance: float,
        dual_lr: float,
        begin: int = 0,
        buffer: int = BUFFER,
    ) -> None:
        self.groups = Groups.parse(groups)
        names = self.groups.names
        if dense_accuracies.shape != (len(names),) or shares.shape != (len(names),):
            raise ConfigError(
                f"expected one dense accuracy and one share for each of {len(names)} groups, got "
                f"{tuple(dense_accuracies.shape)} and {tuple(shares.shape)}"
            )
        if not (tolerance >= 0 and dual_lr > 0 and begin >= 0 and buffer >= 1):
            raise ConfigError(
                f"expected tolerance ≥ 0, dual_lr > 0, begin ≥ 0 and buffer ≥ 1, got {tolerance}, {dual_lr}, {begin} and "
                f"{buffer}"
            )
        self.tolerance, self.dual_lr, self.begin = tolerance, dual_lr, begin
        self.multipliers = torch.zeros(len(names))
        self._dense = dense_accuracies.double().cpu()
        self._shares = (shares / shares.sum()).double().cpu()
        self._buffers = [deque[float](maxlen=buffer) for _ in names]
        self._calls = 0

    @classmethod
    def of_dense(
        cls,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        groups: Any,
        forward: Forward = default_forward,
        **options: Any,
    ) -> ExcessGapObjective:
        """Measures the dense model on the training data first, in eval mode.

        Raises:
            DataError: If a group has no sample there.
        """
        parsed = Groups.parse(groups)
        accuracies, shares = group_accuracies(model, loader, parsed, forward)
        return cls(accuracies, shares, groups=parsed, **options)

    def __call__(self, logits: Tensor, targets: Tensor, sensitive: Any) -> Tensor:
        """The objective of a batch, a scalar; with gradients on, buffers and multipliers move first.

        Raises:
            DataError: If logits, targets or groups do not fit together.
        """
        losses = GroupLosses.of(logits, targets, sensitive, self.groups)
        training = torch.is_grad_enabled()
        mitigating = self._calls >= self.begin
        self._calls += int(training)
        if not mitigating:
            return losses.overall
        if training:
            self._remember(losses)
            self.multipliers = (self.multipliers + self.dual_lr * self.violations().float()).clamp_min(0)
        excess = (losses.means - losses.overall) * losses.present
        return losses.overall + (self.multipliers.to(excess) * excess).sum()

    def violations(self) -> Tensor:
        """ψ, ``(G,)`` float64; 0 for groups whose buffer is not full."""
        full = torch.tensor([len(buffer) == buffer.maxlen for buffer in self._buffers])
        if not bool(full.any()):
            return torch.zeros(len(full), dtype=torch.float64)
        now = torch.tensor([math.fsum(buffer) / max(len(buffer), 1) for buffer in self._buffers], dtype=torch.float64)
        lost = self._dense - now
        shares = self._shares * full
        everybody = (shares * lost).sum() / shares.sum()
        return torch.where(full, lost - everybody - self.tolerance, torch.zeros_like(lost))

    def _remember(self, losses: GroupLosses) -> None:
        right = (losses.outputs.predicted() == losses.outputs.targets).double().cpu()
        ids = losses.ids.cpu()
        for group, buffer in enumerate(self._buffers):
            buffer.extend(right[ids == group].tolist())


def package_settings(
    groups: Any, *, tolerance: float, steps: int, ramp_end: float, batch_size: int, dual_lr: float
) -> dict[str, Any]:
    """The nearest thing inside ``BiFPPruner``: its arguments ``constraint`` and ``multipliers``; ``fit`` needs
    ``driver="train"``.

    Running counts of about the buffer's size stand for the buffers.

    Args:
        groups: As constraints take them.
        tolerance: ε.
        steps: Training steps of the run.
        ramp_end: Share of them at which pruning has ended (of the pruner's ``bilevel`` settings).
        batch_size: Samples per training batch.
        dual_lr: Step size of the multipliers.
    """
    constraint = ExcessAccuracyGap(tolerance=tolerance, groups=groups)
    window = max(1, round(BUFFER * constraint.num_groups / batch_size))
    multipliers = {"lr": dual_lr, "window": window, "warmup": round(ramp_end * steps)}
    return {"constraint": constraint, "multipliers": multipliers}
