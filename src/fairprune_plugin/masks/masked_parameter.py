"""A parameter that groups of channels cross: hidden weights are zero in it and held aside.

Two ways to the same values. :class:`MaskedParameter` touches only the rows and columns that change, by their positions;
:class:`UnseenMaskParameter` multiplies by flags, which needs no position and so never asks an accelerator for one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..shards import local, part_of, positions_here
from ..value_checks import reading_waits
from .groups import ChannelSite, unit_axis


class Axis:
    """One dimension of a parameter along which units cross it.

    Of a parameter that is sharded over ranks along this dimension, the positions are those that are here.

    Attributes:
        dim: The dimension.
        unit: ``(size,)`` int64 unit of each position; −1 where no unit owns it.
        masked: Whether the mask multiplies here (a consumer's in-channels) or the positions are only frozen
            while their channel is hidden.
        kept: The mask along this dimension, ``(size,)`` bool.
        keep: The same, broadcastable to the parameter.
    """

    def __init__(self, parameter: Tensor, dim: int, *, masked: bool) -> None:
        self.dim = dim
        self.masked = masked
        self._here = positions_here(parameter, dim)
        self._whole = len(self._here) == parameter.shape[dim]
        self.unit = unit_axis(len(self._here), parameter.device)
        self._shape = [-1 if d == dim else 1 for d in range(parameter.dim())]
        self.take(torch.ones(1, dtype=torch.bool, device=parameter.device))

    def own(self, index: Tensor, unit: Tensor) -> None:
        """Says which units own positions of the whole parameter, ``(k,)`` int64 both."""
        if not self._whole:
            here = (index >= self._here.start) & (index < self._here.stop)
            index, unit = index[here] - self._here.start, unit[here]
        self.unit[index] = unit

    def take(self, keep_units: Tensor) -> None:
        """Reads a new mask."""
        self.kept = torch.where(self.unit >= 0, keep_units[self.unit.clamp_min(0)], True)
        self.keep = self.kept.reshape(self._shape)
        self._hidden: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """Positions that the mask hides now, ``(h,)`` int64; on an accelerator the host waits for them."""
        if self._hidden is None:
            self._hidden = (~self.kept).nonzero().reshape(-1)
        return self._hidden

    def add_to_units(self, units: Tensor, values: Tensor) -> None:
        """Adds a value per position, ``(size,)``, to the units that own the positions.

        Args:
            units: ``(U + 1,)``; the last entry takes what no unit owns.
            values: ``(size,)``.
        """
        units.index_add_(0, torch.where(self.unit >= 0, self.unit, len(units) - 1), values)


class MaskedParameter:
    """A parameter that groups of channels cross.

    Invariant: where a masked axis hides, the live value is 0 and ``held`` has the weight; where only a carried
    axis hides, live and held agree (frozen); elsewhere the live value is the weight.

    Of a sharded parameter all of this is about the part that is here.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.axes: dict[tuple[int, bool], Axis] = {}
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
        self.axes[key].own(site.index, site.unit + offset)

    @property
    def data(self) -> Tensor:
        """The live values that are here."""
        return local(self.parameter)

    @property
    def gradient(self) -> Tensor | None:
        """Of those."""
        return None if self.parameter.grad is None else local(self.parameter.grad)

    @property
    def masked_axes(self) -> list[Axis]:
        return [axis for axis in self.axes.values() if axis.masked]

    @property
    def carried_axes(self) -> list[Axis]:
        return [axis for axis in self.axes.values() if not axis.masked]

    def take(self, keep_units: Tensor) -> None:
        """Follows a new mask, touching only the rows and columns that change."""
        data = self.data
        for axis in self.axes.values():
            old = axis.kept
            axis.take(keep_units)
            hide, show = (old & ~axis.kept).nonzero().reshape(-1), (~old & axis.kept).nonzero().reshape(-1)
            if len(hide):
                if self.held is None:
                    self.held = torch.zeros_like(data)
                leaving = data.index_select(axis.dim, hide)
                for other in self.masked_axes:
                    if other is not axis and len(other.hidden):
                        # Already hidden by this axis: the live value is 0, the weight is in held.
                        known = self.held.index_select(axis.dim, hide)
                        # A dimension can be masked at some positions and carried at others (rows of a fused
                        # q, k, v projection); then positions are those among `hide`.
                        same = other.dim == axis.dim
                        already = (~other.kept[hide]).nonzero().reshape(-1) if same else other.hidden
                        leaving.index_copy_(other.dim, already, known.index_select(other.dim, already))
                self.held.index_copy_(axis.dim, hide, leaving)
                if axis.masked:
                    data.index_fill_(axis.dim, hide, 0)
            if len(show) and axis.masked and self.held is not None:
                returning = self.held.index_select(axis.dim, show)
                for other in self.masked_axes:
                    if other is not axis and len(other.hidden):
                        returning.index_fill_(other.dim, other.hidden, 0)
                data.index_copy_(axis.dim, show, returning)

    def restore(self, keep_units: Tensor, held: Tensor | None) -> None:
        """Installs a saved mask on weights that were saved under it; of a sharded parameter, ``held`` is the whole."""
        for axis in self.axes.values():
            axis.take(keep_units)
        self.held = None if held is None else part_of(held, self.parameter)
        self.reapply()

    def reapply(self) -> None:
        """After an optimizer step: hidden weights are zero again, frozen ones where they were."""
        data = self.data
        for axis in self.carried_axes:
            if self.held is not None and len(axis.hidden):
                data.index_copy_(axis.dim, axis.hidden, self.held.index_select(axis.dim, axis.hidden))
        self._zero(data)

    def mask_gradient(self) -> None:
        """m ⊙ g_z: hidden weights get no gradient."""
        gradient = self.gradient
        if gradient is not None:
            self._zero(gradient)

    def full_values(self) -> Tensor:
        """θ: the weights, with the hidden ones as they were when they left."""
        data = self.data
        if self.held is None:
            return data
        hidden = torch.zeros((), dtype=torch.bool, device=data.device)
        for axis in self.masked_axes:
            hidden = hidden | ~axis.keep
        return torch.where(hidden, self.held, data)

    def derivative(self, axis: Axis, gradient: Tensor, inverse_gamma: float) -> Tensor:
        """Σ over all other dimensions of (θ − (1/γ) m ⊙ g) ⊙ g, one value per position along a masked axis.

        Another masked axis of the same parameter still multiplies θ (its hidden rows contribute nothing), so
        that this is the derivative with respect to one factor of the product m₁ ⊙ m₂ ⊙ θ.
        """
        dim = axis.dim
        others = [other for other in self.masked_axes if other.dim != dim and len(other.hidden)]
        # Shown positions read the live weights. For hidden ones m = 0, so that only the direct term is left, with
        # the weights they left with.
        total = torch.add(self.data, gradient, alpha=-inverse_gamma).mul_(gradient)
        for other in others:
            total.mul_(other.keep)
        sums = sum_except(total, dim)
        if self.held is not None and len(axis.hidden):
            held = self.held.index_select(dim, axis.hidden)
            for other in others:
                held.index_fill_(other.dim, other.hidden, 0)
            sums[axis.hidden] = sum_except(held.mul_(gradient.index_select(dim, axis.hidden)), dim)
        return sums

    def _zero(self, tensor: Tensor) -> None:
        for axis in self.masked_axes:
            if len(axis.hidden):
                tensor.index_fill_(axis.dim, axis.hidden, 0)


class UnseenMaskParameter(MaskedParameter):
    """The same on an accelerator: nobody on the host knows what is hidden."""

    def take(self, keep_units: Tensor) -> None:
        weights = self.full_values().clone()
        for axis in self.axes.values():
            axis.take(keep_units)
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
