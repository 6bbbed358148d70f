"""Running group counts: rates are ratios of counts over many batches, never means of per-batch ratios."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .outputs import Outputs
from .rates import Rate


class RateCounts:
    """Numerators and denominators of ``R`` rates for ``G`` groups, with optional forgetting.

    Args:
        rates: The ``R`` rates to count.
        num_groups: ``G``.
        decay: Factor on the old counts at each update. 1 sums everything (evaluation); below 1 the counts
            are a window of about ``1 / (1 − decay)`` batches, so that they follow a model that changes.
    """

    def __init__(self, rates: Sequence[Rate], num_groups: int, *, decay: float = 1.0) -> None:
        self.rates = tuple(rates)
        self.num_groups = num_groups
        self.decay = decay
        shape = (len(self.rates), num_groups)
        self.hits = torch.zeros(shape, dtype=torch.float64)
        self.totals = torch.zeros(shape, dtype=torch.float64)
        self.samples = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def update(self, outputs: Outputs, groups: Tensor) -> None:
        """Adds a batch. A group that is absent from it keeps its rate.

        Args:
            outputs: The batch's logits and targets.
            groups: ``(N,)`` int64 group ids.
        """
        self._to(groups.device)
        conditions = torch.stack([rate.condition(outputs.targets) for rate in self.rates]).double()
        decisions = torch.stack([rate.strict(outputs) for rate in self.rates]).double()
        zeros = torch.zeros_like(self.hits)
        totals = zeros.index_add(1, groups, conditions)
        hits = zeros.index_add(1, groups, conditions * decisions)
        # Old counts of every group age alike, so that totals / samples stays the share of the group.
        self.totals = self.totals * self.decay + totals
        self.hits = self.hits * self.decay + hits
        self.samples = self.samples * self.decay + len(groups)

    def values(self) -> Tensor:
        """The rates, ``(R, G)`` float64; NaN where nothing was counted."""
        return self.hits / self.totals

    def shares(self) -> Tensor:
        """P(condition of the rate, group), ``(R, G)`` float64: what a surrogate mean is divided by."""
        return self.totals / self.samples

    def state_dict(self) -> dict[str, Tensor]:
        return {"hits": self.hits.clone(), "totals": self.totals.clone(), "samples": self.samples.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.hits, self.totals, self.samples = (state[key].clone() for key in ("hits", "totals", "samples"))

    def _to(self, device: torch.device) -> None:
        if self.hits.device != device:
            self.hits, self.totals, self.samples = (t.to(device) for t in (self.hits, self.totals, self.samples))
