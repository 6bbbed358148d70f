"""The mean loss of recent steps, kept on the device: reading it in every step would wait for an accelerator."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class RunningMean:
    """An exponential mean in float64 with a memory of about ``1 / (1 − decay)`` values; NaN before the first."""

    def __init__(self, decay: float = 0.95) -> None:
        self._decay = decay
        self._mean: Tensor | float = math.nan

    def update(self, value: Tensor) -> None:
        """Adds a 0-d value."""
        new = value.detach().double()
        fresh = isinstance(self._mean, float) and math.isnan(self._mean)
        self._mean = new if fresh else self._decay * self._mean + (1 - self._decay) * new

    @property
    def tensor(self) -> Tensor:
        """The mean, 0-d, where the values are; nobody waits for it."""
        return self._mean if isinstance(self._mean, Tensor) else torch.tensor(self._mean, dtype=torch.float64)

    @property
    def value(self) -> float:
        """The mean; on an accelerator the host waits for it."""
        return float(self._mean)

    @value.setter
    def value(self, mean: float) -> None:
        self._mean = mean
