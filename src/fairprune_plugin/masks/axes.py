"""A dimension of a parameter along which channels cross it, and what a mask makes of its positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shards import local, positions_here
from .groups import unit_axis


@dataclass(frozen=True)
class Change:
    """What a new mask does to the positions along a dimension, each ``(k,)`` int64: those it hides, those it shows again."""

    hide: Tensor
    show: Tensor


class Positions:
    """Which unit owns each position along a dimension, and what the mask makes of them; parameters that the same channels
    cross in the same order share one.

    Attributes:
        unit: ``(size,)`` int64 unit of each position; −1 where no unit owns it.
        kept: The mask along the dimension, ``(size,)`` bool.
        before: The one before it.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.unit = unit_axis(size, device)
        self.kept = self.before = torch.ones(size, dtype=torch.bool, device=device)
        self._read: Tensor | None = None
        self._hidden: Tensor | None = None
        self._change: Change | None = None

    def read(self, keep_units: Tensor) -> None:
        """Follows a new mask, ``(U,)`` bool; once, however many parameters ask for it."""
        if keep_units is self._read:
            return
        self._read, self.before = keep_units, self.kept
        self.kept = torch.where(self.unit >= 0, keep_units[self.unit.clamp_min(0)], True)
        self._hidden = self._change = None

    @property
    def hidden(self) -> Tensor:
        """Positions that the mask hides now, ``(h,)`` int64; on an accelerator the host waits for them."""
        if self._hidden is None:
            self._hidden = positions_of(~self.kept)
        return self._hidden

    @property
    def change(self) -> Change:
        """From the mask before; on an accelerator the host waits for it."""
        if self._change is None:
            moved = positions_of(self.before != self.kept)
            shown = self.kept[moved]
            self._change = Change(moved[~shown], moved[shown])
        return self._change


def positions_of(flags: Tensor) -> Tensor:
    """Where flags, ``(n,)`` bool, are set: ``(k,)`` int64; on an accelerator the host waits for them."""
    return flags.nonzero().reshape(-1)


class Axis:
    """One dimension of a parameter along which units cross it.

    Of a parameter that is sharded over ranks along this dimension, the positions are those that are here.

    Attributes:
        dim: The dimension.
        masked: Whether the mask multiplies here (a consumer's in-channels) or the positions are only frozen
            while their channel is hidden.
        positions: Along the dimension.
    """

    def __init__(self, parameter: Tensor, dim: int, *, masked: bool) -> None:
        self.dim = dim
        self.masked = masked
        self._here = positions_here(parameter, dim)
        self._whole = len(self._here) == parameter.shape[dim]
        self.positions = Positions(len(self._here), parameter.device)
        self._shape = [-1 if d == dim else 1 for d in range(parameter.dim())]
        self._inner = math.prod(local(parameter).shape[dim + 1 :])
        self._row: tuple[Tensor, Tensor] | None = None

    def own(self, index: Tensor, unit: Tensor) -> None:
        """Says which units own positions of the whole parameter, ``(k,)`` int64 both."""
        if not self._whole:
            here = (index >= self._here.start) & (index < self._here.stop)
            index, unit = index[here] - self._here.start, unit[here]
        self.unit[index] = unit

    @property
    def unit(self) -> Tensor:
        return self.positions.unit

    @property
    def kept(self) -> Tensor:
        return self.positions.kept

    @property
    def hidden(self) -> Tensor:
        return self.positions.hidden

    @property
    def keep(self) -> Tensor:
        """The mask, broadcastable to the parameter, bool."""
        return self.broadcast(self.kept)

    def broadcast(self, values: Tensor) -> Tensor:
        """A value per position, ``(size,)``, with the dimensions of the parameter."""
        return values.reshape(self._shape)

    def mask(self, tensor: Tensor) -> None:
        """Hidden positions of a tensor shaped like the parameter become 0, in place.

        A product with a row of factors is three to six times as fast as filling columns by their positions.
        """
        if not self.hidden.numel() or not tensor.numel():
            return
        if self.dim == 0:
            tensor.index_fill_(0, self.hidden, 0)
        elif tensor.is_contiguous():
            row = self._factors(tensor.dtype)
            tensor.view(-1, row.numel()).mul_(row)
        else:
            tensor.mul_(self.keep)

    def _factors(self, dtype: torch.dtype) -> Tensor:
        """The mask for everything behind one index of the dimensions before, ``(size · inner,)``; kept while it holds."""
        if self._row is None or self._row[0] is not self.kept or self._row[1].dtype != dtype:
            self._row = (self.kept, self.kept.to(dtype).repeat_interleave(self._inner))
        return self._row[1]

    def add_to_units(self, units: Tensor, values: Tensor) -> None:
        """Adds a value per position, ``(size,)``, to the units that own the positions.

        Args:
            units: ``(U + 1,)``; the last entry takes what no unit owns.
            values: ``(size,)``.
        """
        units.index_add_(0, torch.where(self.unit >= 0, self.unit, len(units) - 1), values)
