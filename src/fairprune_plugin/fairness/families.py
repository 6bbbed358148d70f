"""Averages of rates over classes and labels: what a "macro" constraint compares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Families:
    """``R`` rates in ``R'`` families; a family is compared by the mean of its rates.

    A mean over other classes for one group than for another would compare different things, so a class counts only
    if its rate is defined for every group that has any defined rate in the family. Families of one rate pass through.

    Args:
        names: Of the ``R'`` families.
        member_of: Family of each of the ``R`` rates.
    """

    def __init__(self, names: Sequence[str], member_of: Sequence[int]) -> None:
        self.names = tuple(names)
        self._single = list(member_of) == list(range(len(self.names)))
        self._rows = torch.zeros(len(self.names), len(member_of), dtype=torch.float64)
        self._rows[list(member_of), list(range(len(member_of)))] = 1.0

    def mean(self, rates: Tensor, defined: Tensor, *, undefined: float = 0.0) -> Tensor:
        """Mean rate of each family, ``(R', G)``.

        Args:
            rates: ``(R, G)``; differentiable if it is.
            defined: ``(R, G)``: which rates mean something.
            undefined: Value where a family has no usable rate for a group.
        """
        defined = defined.bool()
        if self._single:
            return rates if undefined == 0.0 else rates.masked_fill(~defined, undefined)
        usable = self._usable(defined)
        rows = self._rows_on(rates.device).to(rates.dtype)
        sums = rows @ torch.where(usable, rates, torch.zeros((), dtype=rates.dtype, device=rates.device))
        number = rows @ usable.to(rates.dtype)
        return torch.where(number > 0, sums / number.clamp_min(1), undefined)

    def variance(self, variances: Tensor, defined: Tensor) -> Tensor:
        """Squared standard error of the means, ``(R', G)``, the rates of a family taken as independent."""
        if self._single:
            return variances
        usable = self._usable(defined)
        rows = self._rows_on(variances.device)
        number = rows @ usable.to(rows.dtype)
        total = rows @ torch.where(usable, variances, 0.0)
        return torch.where(number > 0, total / number.clamp_min(1).square(), math.nan)

    def total(self, totals: Tensor) -> Tensor:
        """Samples behind each family, ``(R', G)``."""
        return totals if self._single else self._rows_on(totals.device) @ totals

    def shares(self, family: int, defined: Tensor) -> tuple[Tensor, Tensor]:
        """Which rates a family has, ``(M,)``, and the weight of each in the group's mean, ``(M, G)`` float64."""
        members = self._rows[family].nonzero().reshape(-1).to(defined.device)
        usable = defined.bool() if self._single else self._usable(defined.bool())
        own = usable[members].double()
        return members, own / own.sum(dim=0, keepdim=True).clamp_min(1)

    def _rows_on(self, device: torch.device) -> Tensor:
        if self._rows.device != device:
            self._rows = self._rows.to(device)
        return self._rows

    def _usable(self, defined: Tensor) -> Tensor:
        """Rates of classes that every group with any defined rate of the family has."""
        rows = self._rows_on(defined.device)
        in_play = (rows @ defined.double() > 0).double()  # (R', G): groups with any rate
        wanted = rows.T @ in_play > 0  # (R, G)
        complete = (defined | ~wanted).all(dim=1, keepdim=True)
        return defined & complete
