"""A parameter that groups of channels cross: hidden weights are zero in it and held aside.

Two ways to the same values. :class:`MaskedParameter` touches only the rows and columns that change, by their positions;
:class:`UnseenMaskParameter` multiplies by flags, which needs no position and so never asks an accelerator for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..shards import local, part_of
from ..value_checks import reading_waits
from .axes import Axis, positions_of
from .groups import ChannelSite

CHUNK = 2**17  # entries of a parameter that are worked on at once: what is computed from them stays in the cache


class MaskedParameter:
    """A parameter that groups of channels cross.

    Invariant: where a masked axis hides, the live value is 0 and ``held`` has the weight; where only a carried
    axis hides, live and held agree (frozen); elsewhere the live value is the weight.

    Of a sharded parameter all of this is about the part that is here.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.axes: dict[tuple[int, bool], Axis] = {}
        self.masked_axes: list[Axis] = []
        self.carried_axes: list[Axis] = []
        self.held: Tensor | None = None

    @staticmethod
    def of(parameter: Tensor) -> MaskedParameter:
        """The kind that suits the parameter's device."""
        return UnseenMaskParameter(parameter) if reading_waits(parameter.device) else MaskedParameter(parameter)

    def add(self, site: ChannelSite, *, offset: int, masked: bool) -> None:
        """Registers that a group's units cross this parameter at a site."""
        key = (site.dim, masked)
        if key not in self.axes:
            self.axes[key] = Axis(self.parameter, site.dim, masked=masked)
            (self.masked_axes if masked else self.carried_axes).append(self.axes[key])
        self.axes[key].own(site.index, site.unit + offset)

    @property
    def data(self) -> Tensor:
        """The live values that are here."""
        return local(self.parameter)

    @property
    def gradient(self) -> Tensor | None:
        """Of those."""
        return None if self.parameter.grad is None else local(self.parameter.grad)

    def take(self, keep_units: Tensor) -> None:
        """Follows a new mask, touching only the rows and columns that change."""
        self._read(keep_units)
        data = self.data
        followed: list[Axis] = []
        for axis in self.axes.values():
            hide, show = axis.positions.change.hide, axis.positions.change.show
            if hide.numel() or show.numel():
                # The mask of the other axes that the live values are under.
                others = [
                    (other, other.kept if other in followed else other.positions.before)
                    for other in self.masked_axes
                    if other is not axis
                ]
                if hide.numel():
                    self._hide(axis, hide, others)
                if show.numel() and axis.masked and self.held is not None:
                    returning = self.held.index_select(axis.dim, show)
                    for other, kept in others:
                        returning.index_fill_(other.dim, positions_of(~kept), 0)
                    data.index_copy_(axis.dim, show, returning)
            followed.append(axis)

    def _hide(self, axis: Axis, hide: Tensor, others: list[tuple[Axis, Tensor]]) -> None:
        data = self.data
        if self.held is None:
            self.held = torch.zeros_like(data)
        leaving = data.index_select(axis.dim, hide)
        for other, kept in others:
            # A dimension can be masked at some positions and carried at others (rows of a fused q, k, v projection);
            # then positions are those among `hide`.
            already = positions_of(~kept[hide] if other.dim == axis.dim else ~kept)
            if already.numel():
                # Hidden by that axis: the live value is 0, the weight is in held.
                known = self.held.index_select(axis.dim, hide)
                leaving.index_copy_(other.dim, already, known.index_select(other.dim, already))
        self.held.index_copy_(axis.dim, hide, leaving)
        if axis.masked:
            data.index_fill_(axis.dim, hide, 0)

    def restore(self, keep_units: Tensor, held: Tensor | None) -> None:
        """Installs a saved mask on weights that were saved under it; of a sharded parameter, ``held`` is the whole."""
        self._read(keep_units)
        self.held = None if held is None else part_of(held, self.parameter)
        self.reapply()

    def reapply(self) -> None:
        """After an optimizer step: hidden weights are zero again, frozen ones where they were."""
        data = self.data
        if self.held is not None:
            for axis in self.carried_axes:
                if axis.hidden.numel():
                    data.index_copy_(axis.dim, axis.hidden, self.held.index_select(axis.dim, axis.hidden))
        self._zero(data)

    def mask_gradient(self) -> None:
        """m ⊙ g_z: hidden weights get no gradient."""
        gradient = self.gradient
        if gradient is not None:
            self._zero(gradient)

    def full_values(self, *, before: bool = False) -> Tensor:
        """θ: the weights, with the hidden ones as they were when they left; ``before``: those of the mask before."""
        data = self.data
        if self.held is None:
            return data
        hidden = torch.zeros((), dtype=torch.bool, device=data.device)
        for axis in self.masked_axes:
            hidden = hidden | ~axis.broadcast(axis.positions.before if before else axis.kept)
        return torch.where(hidden, self.held, data)

    def squares(self) -> dict[int, Tensor]:
        """Σ over all other dimensions of θ²: by each dimension that is crossed, one value per position along it."""
        weights = self.full_values()
        dims = list(dict.fromkeys(axis.dim for axis in self.axes.values()))

        def of_rows(rows: slice) -> list[Tensor]:
            squares = weights[rows].square()
            return [sum_except(squares, dim) for dim in dims]

        return dict(zip(dims, self._summed(dims, of_rows), strict=True))

    def derivative(self, axis: Axis, gradient: Tensor, inverse_gamma: float) -> Tensor:
        """Σ over all other dimensions of (θ − (1/γ) m ⊙ g) ⊙ g, one value per position along a masked axis.

        Another masked axis of the same parameter still multiplies θ (its hidden rows contribute nothing), so
        that this is the derivative with respect to one factor of the product m₁ ⊙ m₂ ⊙ θ.
        """
        (sums,) = self._summed([axis.dim], lambda rows: [self._derivative(axis, gradient, rows, inverse_gamma)])
        return sums

    def _summed(self, dims: Sequence[int], sums_of: Callable[[slice], list[Tensor]]) -> list[Tensor]:
        """Sums per position along each of some dimensions, taken over a few rows (of the first dimension) at a time."""
        size, *others = self.data.shape
        rows = max(1, CHUNK // max(1, math.prod(others)))
        # Of a sharded parameter there may be nothing here.
        parts = [sums_of(slice(begin, begin + rows)) for begin in range(0, max(size, 1), rows)]
        if len(parts) == 1:
            return parts[0]
        return [
            torch.cat(sums) if dim == 0 else torch.stack(sums).sum(0)
            for dim, sums in zip(dims, zip(*parts, strict=True), strict=True)
        ]

    def _derivative(self, axis: Axis, gradient: Tensor, rows: slice, inverse_gamma: float) -> Tensor:
        """:meth:`derivative` of some rows."""
        gradient, data = gradient[rows], self.data[rows]
        others = [
            other.keep[rows] if other.dim == 0 else other.keep
            for other in self.masked_axes
            if other.dim != axis.dim and other.hidden.numel()
        ]

        def summed(total: Tensor) -> Tensor:
            for keep in others:
                total.mul_(keep)
            return sum_except(total, axis.dim)

        # Shown positions read the live weights. For hidden ones m = 0, so that only the direct term is left, with
        # the weights they left with.
        sums = summed(torch.add(data, gradient, alpha=-inverse_gamma).mul_(gradient))
        if self.held is None or not axis.hidden.numel():
            return sums
        kept = axis.kept[rows] if axis.dim == 0 else axis.kept
        return torch.where(kept, sums, summed(self.held[rows] * gradient))

    def _read(self, keep_units: Tensor) -> None:
        for axis in self.axes.values():
            axis.positions.read(keep_units)

    def _zero(self, tensor: Tensor) -> None:
        for axis in self.masked_axes:
            axis.mask(tensor)


class UnseenMaskParameter(MaskedParameter):
    """The same on an accelerator: nobody on the host knows what is hidden."""

    def take(self, keep_units: Tensor) -> None:
        self._read(keep_units)
        weights = self.full_values(before=True).clone()
        self.held = weights
        self.data.copy_(weights)
        self._zero(self.data)

    def reapply(self) -> None:
        data = self.data
        for axis in self.carried_axes:
            if self.held is not None:
                data.copy_(torch.where(axis.keep, data, self.held))
        self._zero(data)

    def derivative(self, axis: Axis, gradient: Tensor, inverse_gamma: float) -> Tensor:
        shown = gradient.masked_fill(~axis.keep, 0)
        total = torch.add(self.full_values(), shown, alpha=-inverse_gamma).mul_(gradient)
        for other in self.masked_axes:
            if other.dim != axis.dim:
                total.mul_(other.keep)
        return sum_except(total, axis.dim)

    def _zero(self, tensor: Tensor) -> None:
        for axis in self.masked_axes:
            tensor.masked_fill_(~axis.keep, 0)


def sum_except(tensor: Tensor, dim: int) -> Tensor:
    """Sum over every dimension but one. The first dimension goes first: its slices are contiguous, which makes
    this four times faster on a convolution's weights than one sum over all the others."""
    if dim != 0 and tensor.dim() > 1:
        return sum_except(tensor.sum(0), dim - 1)
    return tensor.flatten(1).sum(1) if tensor.dim() > 1 else tensor
