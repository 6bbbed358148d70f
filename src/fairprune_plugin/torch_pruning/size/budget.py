"""How much may stay: floors, ranking scopes and the global size budget over the groups of a pruner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...masks.allocation import GroupLimits, check_reachable, keep_by_channels, keep_by_size
from ...masks.cost import CostModel
from ...masks.masked_weights import MaskedWeights
from ...warn import warn_caller
from ..channels.scopes import group_limits, ranking_scopes, scope_of


class Budget:
    """The constraint ‖m‖ ≤ k of the upper level, in channels, parameters or MACs.

    Ratios refer to the dense model: what was there at the first :meth:`bind` is remembered when channels are
    removed in several rounds.

    Args:
        pruner: The Torch-Pruning pruner whose options count.
        target: ``"channels"``, ``"params"`` or ``"macs"``.
        cost_exponent: Power of a unit's cost by which scores are divided under a size budget.
        cost_model: ``(target, weights) → CostModel`` of the pruner's model as it is.
    """

    def __init__(
        self,
        pruner: Any,
        target: str,
        cost_exponent: float,
        cost_model: Callable[[str, MaskedWeights], CostModel],
    ) -> None:
        self._pruner = pruner
        self._target = target
        self._exponent = cost_exponent
        self._cost_model = cost_model
        self._dense_units_of_scope: dict[str, int] = {}
        self._dense_units_of_group: dict[str, int] = {}
        self._dense_size: float | None = None
        self.limits: list[GroupLimits] = []

    def bind(self, weights: MaskedWeights) -> None:
        """Takes the groups that are there now.

        Raises:
            ConfigError: If the floors leave more than a size budget allows.
        """
        pruner, groups = self._pruner, self._pruner.host_groups
        self._weights = weights
        self.limits = group_limits(
            groups,
            max_pruning_ratio=pruner.max_pruning_ratio,
            round_to=pruner.round_to,
            initial=self._dense_units_of_group,
        )
        keys = [scope_of(pruner, group) for group in groups]
        sized = self._target != "channels"
        self._sized = [index for index, key in enumerate(keys) if sized and not key.user_defined]
        scopes = ranking_scopes(keys, groups, self._dense_units_of_scope)
        self._scopes = [scope for scope in scopes if not set(scope.groups) & set(self._sized)]
        if self._sized:
            self._cost = self._cost_model(self._target, weights)
            self._unit_costs = self._cost.unit_costs().clamp_min(1.0).float().to(weights.keep.device)
            self._dense_size = self._dense_size or self._cost.dense
            asked = f"pruning_ratio={pruner.pruning_ratio} of {self._target}"
            # Which heads or channels go there is not known yet, but how many.
            others = keep_by_channels(torch.ones(weights.num_units), self.limits, self._scopes, 1.0)
            check_reachable(self.limits, self._cost, self._size_due(1.0), asked, self._sized, start=others)
        self.to(weights.keep.device)  # where the scores are: the projection stays there

    def to(self, device: torch.device) -> None:
        """Projects scores that are on a device from now on."""
        self.limits = [limits.to(device) for limits in self.limits]
        if self._sized:
            self._unit_costs = self._unit_costs.to(device)
            self._cost.to(device)

    def project(self, scores: Tensor, progress: float) -> Tensor:
        """The best mask ``(U,)`` bool within the budget when ``progress`` of the final ratio is due.

        Args:
            scores: ``(U,)``; higher stays.
            progress: In [0, 1].
        """
        keep = keep_by_channels(scores, self.limits, self._scopes, progress)
        if self._sized:
            per_cost = scores / self._unit_costs**self._exponent
            size = self._size_due(progress)
            keep = keep_by_size(per_cost, self.limits, self._cost, size, start=keep, groups=self._sized)
        return keep

    def warn_if_nothing_goes(self) -> None:
        """Whether ``round_to`` alone keeps all that a ratio asks to remove."""
        pruner = self._pruner
        asked = pruner.pruning_ratio > 0 or any(scope.ratio > 0 for scope in self._scopes)
        if not asked or all(limits.multiple == 1 for limits in self.limits):
            return
        scores = torch.ones(self._weights.num_units, device=self._weights.keep.device)
        if bool(self.project(scores, 1.0).all()):
            warn_caller(
                f"nothing will be pruned: round_to={pruner.round_to} keeps every layer at a multiple of {pruner.round_to} "
                f"channels, and none can lose as many at pruning_ratio={pruner.pruning_ratio:g}; pass a smaller round_to",
            )

    def size(self, keep: Tensor, target: str) -> float:
        """Parameters or MACs of the model under a mask ``(U,)``."""
        return float(self._cost_model(target, self._weights).size(keep))

    def _size_due(self, progress: float) -> float:
        assert self._dense_size is not None
        return float(self._dense_size * (1 - self._pruner.pruning_ratio * progress))
