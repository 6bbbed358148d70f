"""Running group counts: rates are ratios of counts over many batches, never means of per-batch ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..value_checks import where_good
from .outputs import Outputs
from .rates import Rate


class RateCounts:
    """Sums, sums of squares and numbers of samples of ``R`` rates for ``G`` groups, with optional forgetting.

    Args:
        rates: The ``R`` rates to count.
        num_groups: ``G``.
        decay: Factor on the old counts at each update. 1 sums everything (evaluation); below 1 the counts
            are a window of about ``1 / (1 − decay)`` batches, so that they follow a model that changes.
        reduce: Applied to the sums of each batch before they are added: under data parallelism, their sum over the
            ranks, so that all of them have the same counts.
    """

    def __init__(
        self,
        rates: Sequence[Rate],
        num_groups: int,
        *,
        decay: float = 1.0,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.rates = tuple(rates)
        self.num_groups = num_groups
        self.decay = decay
        self.reduce = reduce
        shape = (len(self.rates), num_groups)
        self._set(torch.zeros((3, *shape), dtype=torch.float64))
        self.samples = torch.zeros((), dtype=torch.float64)
        self.indicator = torch.tensor([rate.indicator for rate in self.rates])

    @torch.no_grad()
    def update(self, outputs: Outputs, groups: Tensor, good: Tensor | None = None) -> None:
        """Adds a batch. A group that is absent from it keeps its rate.

        Args:
            outputs: The batch's logits and targets.
            groups: ``(N,)`` int64 group ids; samples of no group (negative ids) are left out.
            good: 0-d bool, whether the batch is added at all.
        """
        self.to(groups.device)
        conditions = torch.stack([rate.counted(outputs.targets) for rate in self.rates]) & (groups >= 0)
        values = torch.stack([rate.values(outputs) for rate in self.rates]) * conditions
        rows = torch.cat([conditions.double(), values, values.square()])
        sums = rows.new_zeros(len(rows), self.num_groups).index_add_(1, groups.clamp_min(0), rows)
        samples: float | Tensor = len(groups)
        if self.reduce is not None:
            reduced = self.reduce(torch.cat([sums.reshape(-1), sums.new_full((1,), len(groups))]))
            sums, samples = reduced[:-1], reduced[-1]
        # Old counts of every group age alike, so that totals / samples stays the share of the group.
        table = self._table()
        self._set(where_good(good, table * self.decay + sums.reshape(table.shape), table))
        self.samples = where_good(good, self.samples * self.decay + samples, self.samples)

    def values(self) -> Tensor:
        """The rates, ``(R, G)`` float64; NaN where nothing was counted."""
        return self.hits / self.totals

    def shares(self) -> Tensor:
        """P(condition of the rate, group), ``(R, G)`` float64: what a surrogate mean is divided by."""
        return self.totals / self.samples

    def variances(self) -> Tensor:
        """Squared standard error of each rate, ``(R, G)`` float64; NaN where it is unknown.

        For a proportion, Agresti and Caffo's (one success and one failure added; The American Statistician, 2000),
        which holds for small groups and rates near 0 or 1; for another mean, the sample variance over n (one sample
        tells nothing about it).
        """
        p = (self.hits + 1) / (self.totals + 2)
        proportion = p * (1 - p) / (self.totals + 2)
        mean = self.hits / self.totals
        spread = (self.squares / self.totals - mean.square()).clamp_min(0)
        other = torch.where(self.totals > 1, spread / (self.totals - 1), torch.nan)
        indicator = self.indicator[:, None]
        return torch.where(self.totals > 0, torch.where(indicator, proportion, other), torch.nan)

    def middle(self) -> Tensor:
        """What one success and one failure say of each rate, ``(R, 1)`` float64: 1/2; NaN of a mean that has no bounds."""
        half = torch.full(self.indicator.shape, 0.5, dtype=torch.float64, device=self.indicator.device)
        return torch.where(self.indicator, half, torch.nan)[:, None]

    def _table(self) -> Tensor:
        """All sums in one tensor, ``(3, R, G)``: a training step's operations are too small to take three of each."""
        return torch.stack([self.totals, self.hits, self.squares])

    def _set(self, table: Tensor) -> None:
        self.totals, self.hits, self.squares = table.unbind()

    def add(self, other: dict[str, Tensor]) -> None:
        """Adds the :meth:`state_dict` of other samples' counts of the same rates and groups."""
        self.to(other["hits"].device)
        for name in self._NAMES:
            setattr(self, name, getattr(self, name) + other[name])

    def now(self) -> dict[str, Tensor]:
        """The counts as they are, for :meth:`go_back`; no copies, as :meth:`update` makes new tensors."""
        return {name: getattr(self, name) for name in self._NAMES}

    def go_back(self, before: dict[str, Tensor]) -> None:
        """Undoes the updates since :meth:`now` was called."""
        for name, value in before.items():
            setattr(self, name, value)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).clone() for name in self._NAMES}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name in self._NAMES:
            setattr(self, name, state[name].clone())
        self.indicator = self.indicator.to(self.hits.device)

    def to(self, device: torch.device) -> None:
        if self.hits.device != device:
            for name in (*self._NAMES, "indicator"):
                setattr(self, name, getattr(self, name).to(device))

    _NAMES = ("hits", "squares", "totals", "samples")
