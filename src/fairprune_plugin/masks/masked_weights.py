"""Hard 0/1 masks on a live model, by zeroing weights in place (METHOD section 4).

Hidden in-channel weights *are* zero in the model, so forward and backward are those of the pruned network
and ``.grad`` is ∇_z of the loss at z = m ⊙ θ: no hook, no parametrisation, no wrapped module. The values the
weights left with are held aside, so that a channel can return. While a channel is hidden, its own weights
(rows of its producers, norm affines) are frozen as well: momentum and weight decay would move them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .blocks import MaskedBlocks
from .groups import BlockGroup, ChannelSite, UnitGroup, unit_axis, unit_offsets


class MaskedTensor(Protocol):
    """What the mask needs of a parameter it reaches into, however its units lie there."""

    parameter: Tensor
    held: Tensor | None

    def take(self, keep_units: Tensor) -> None:
        """Follows a new mask: what leaves is held aside, what is shown again returns."""

    def restore(self, keep_units: Tensor, held: Tensor | None) -> None:
        """Installs a saved mask on weights that were saved under it."""

    def reapply(self) -> None:
        """Undoes what an optimizer step did to hidden weights."""

    def mask_gradient(self) -> None:
        """Hidden weights get no gradient."""

    def full_values(self) -> Tensor:
        """θ, with the hidden weights as they were when they left."""


class Axis:
    """One dimension of a parameter along which units cross it.

    Attributes:
        dim: The dimension.
        unit: ``(size,)`` int64 unit of each position; −1 where no unit owns it.
        masked: Whether the mask multiplies here (a consumer's in-channels) or the positions are only frozen
            while their channel is hidden.
        kept: The mask along this dimension, ``(size,)`` bool.
        keep: The same, broadcastable to the parameter.
        hidden: Positions the mask hides now.
    """

    def __init__(self, parameter: Tensor, dim: int, *, masked: bool) -> None:
        self.dim = dim
        self.masked = masked
        self.unit = unit_axis(parameter.shape[dim], parameter.device)
        self._shape = [-1 if d == dim else 1 for d in range(parameter.dim())]
        self.take(torch.ones(1, dtype=torch.bool, device=parameter.device))

    def take(self, keep_units: Tensor) -> tuple[Tensor, Tensor]:
        """Reads a new mask; returns the positions that it newly hides and newly shows."""
        old = getattr(self, "kept", torch.ones_like(self.unit, dtype=torch.bool))
        owned = self.unit >= 0
        self.kept = torch.where(owned, keep_units[self.unit.clamp_min(0)], True)
        self.keep = self.kept.reshape(self._shape)
        self.hidden = (~self.kept).nonzero().reshape(-1)
        return (old & ~self.kept).nonzero().reshape(-1), (~old & self.kept).nonzero().reshape(-1)


class MaskedParameter:
    """A parameter that groups of channels cross.

    Invariant: where a masked axis hides, the live value is 0 and ``held`` has the weight; where only a carried
    axis hides, live and held agree (frozen); elsewhere the live value is the weight.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.axes: dict[tuple[int, bool], Axis] = {}
        self.held: Tensor | None = None

    def add(self, site: ChannelSite, *, offset: int, masked: bool) -> None:
        """Registers that a group's units cross this parameter at a site."""
        key = (site.dim, masked)
        if key not in self.axes:
            self.axes[key] = Axis(self.parameter, site.dim, masked=masked)
        self.axes[key].unit[site.index] = site.unit + offset

    @property
    def masked_axes(self) -> list[Axis]:
        return [axis for axis in self.axes.values() if axis.masked]

    @property
    def carried_axes(self) -> list[Axis]:
        return [axis for axis in self.axes.values() if not axis.masked]

    def take(self, keep_units: Tensor) -> None:
        """Follows a new mask, touching only the rows and columns that change."""
        data = self.parameter.data
        for axis in self.axes.values():
            hide, show = axis.take(keep_units)
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
        """Installs a saved mask on weights that were saved under it."""
        for axis in self.axes.values():
            axis.take(keep_units)
        self.held = None if held is None else held.to(self.parameter.device).clone()
        self.reapply()

    def reapply(self) -> None:
        """After an optimizer step: hidden weights are zero again, frozen ones where they were."""
        if self.held is None:
            return
        data = self.parameter.data
        for axis in self.carried_axes:
            if len(axis.hidden):
                data.index_copy_(axis.dim, axis.hidden, self.held.index_select(axis.dim, axis.hidden))
        self._zero(data)

    def mask_gradient(self) -> None:
        """m ⊙ g_z: hidden weights get no gradient."""
        if self.parameter.grad is not None:
            self._zero(self.parameter.grad)

    def full_values(self) -> Tensor:
        """θ: the weights, with the hidden ones as they were when they left."""
        data = self.parameter.data
        if self.held is None:
            return data
        hidden = torch.zeros((), dtype=torch.bool, device=data.device)
        for axis in self.masked_axes:
            hidden = hidden | ~axis.keep
        return torch.where(hidden, self.held, data)

    def _zero(self, tensor: Tensor) -> None:
        for axis in self.masked_axes:
            if len(axis.hidden):
                tensor.index_fill_(axis.dim, axis.hidden, 0)


class MaskedWeights:
    """The mask of all groups of a model: ``U`` units in one flat vector, group after group.

    Args:
        groups: Groups of channels, with their sites in the model's parameters, or of blocks of weights. A
            parameter is crossed by channels or cut into blocks, not both.
    """

    def __init__(self, groups: tuple[UnitGroup, ...]) -> None:
        self.groups = groups
        self.offsets = unit_offsets(groups)
        self.num_units = self.offsets[-1]
        crossed: dict[int, MaskedParameter] = {}
        self.blocks: list[MaskedBlocks] = []
        for group, offset in zip(groups, self.offsets, strict=False):
            if isinstance(group, BlockGroup):
                self.blocks += [MaskedBlocks(site, offset, group.num_units) for site in group.masked]
                continue
            for sites, masked in ((group.masked, True), (group.carried, False)):
                for site in sites:
                    held = crossed.setdefault(id(site.parameter), MaskedParameter(site.parameter))
                    held.add(site, offset=offset, masked=masked)
        self.crossed = list(crossed.values())
        self.parameters: list[MaskedTensor] = [*self.crossed, *self.blocks]
        device = self.parameters[0].parameter.device if self.parameters else torch.device("cpu")
        self.keep = torch.ones(self.num_units, dtype=torch.bool, device=device)

    def of(self, group_index: int) -> slice:
        """Where a group's units lie in the flat vector."""
        return slice(self.offsets[group_index], self.offsets[group_index + 1])

    @torch.no_grad()
    def set(self, keep: Tensor) -> None:
        """Installs a mask, ``(U,)`` bool: what it hides is held aside, what it shows again returns."""
        if not torch.equal(keep, self.keep):
            self.keep = keep.clone()
            for parameter in self.parameters:
                parameter.take(self.keep)

    @torch.no_grad()
    def restore(self, keep: Tensor, held: Sequence[Tensor | None]) -> None:
        """Installs a saved mask on weights that were saved under it: nothing of the mask before it returns.

        Args:
            keep: ``(U,)`` bool.
            held: One tensor (or ``None``) for each of :attr:`parameters`.
        """
        self.keep = keep.to(self.keep.device).clone()
        for parameter, saved in zip(self.parameters, held, strict=True):
            parameter.restore(self.keep, saved)

    @torch.no_grad()
    def reapply(self) -> None:
        """Restores the mask after an optimizer step."""
        for parameter in self.parameters:
            parameter.reapply()

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Turns g_z into the gradient of the lower level, m ⊙ g_z."""
        for parameter in self.parameters:
            parameter.mask_gradient()
