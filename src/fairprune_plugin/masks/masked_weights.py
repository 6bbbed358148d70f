"""Hard 0/1 masks on a live model, by zeroing weights in place (docs/method.md).

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

from ..errors import TrainingStateError
from ..shards import gathered, is_sharded, local
from ..value_checks import reading_waits
from .axes import Positions
from .blocks import MaskedBlocks
from .groups import BlockGroup, UnitGroup, unit_offsets
from .masked_parameter import MaskedParameter


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
                    if id(site.parameter) not in crossed:
                        crossed[id(site.parameter)] = MaskedParameter.of(site.parameter)
                    crossed[id(site.parameter)].add(site, offset=offset, masked=masked)
        self.crossed = list(crossed.values())
        known: dict[bytes, Positions] = {}
        for parameter in self.crossed:
            for axis in parameter.axes.values():
                axis.positions = known.setdefault(axis.unit.cpu().numpy().tobytes(), axis.positions)
        self.parameters: list[MaskedTensor] = [*self.crossed, *self.blocks]
        # The others are only frozen while their channels are hidden.
        self._masked: list[MaskedTensor] = [*(p for p in self.crossed if p.masked_axes), *self.blocks]
        device = self.parameters[0].parameter.device if self.parameters else torch.device("cpu")
        self.keep = torch.ones(self.num_units, dtype=torch.bool, device=device)
        self.final = False

    def of(self, group_index: int) -> slice:
        """Where a group's units lie in the flat vector."""
        return slice(self.offsets[group_index], self.offsets[group_index + 1])

    @torch.no_grad()
    def set(self, keep: Tensor) -> None:
        """Installs a mask, ``(U,)`` bool: what it hides is held aside, what it shows again returns.

        Raises:
            TrainingStateError: If it shows what was hidden when :meth:`finish` was called (on an accelerator nobody looks).
        """
        if self.final and not reading_waits(self.keep.device) and bool((keep & ~self.keep).any()):
            raise TrainingStateError(
                "the mask has reached its target, and weights that are hidden since then were not kept: a channel cannot be "
                "shown again; load a state from before"
            )
        if reading_waits(self.keep.device) or not torch.equal(keep, self.keep):
            self.keep = keep.clone()
            for parameter in self.parameters:
                parameter.take(self.keep)

    def finish(self) -> None:
        """What is hidden now never returns: nothing is held aside any more, and nobody reads the rows of hidden channels,
        so that it no longer matters where momentum and weight decay move them."""
        self.final = True
        for parameter in self.parameters:
            parameter.held = None

    @torch.no_grad()
    def held(self) -> list[Tensor | None]:
        """What every one of :attr:`parameters` holds aside, as :meth:`restore` takes it. Of sharded ones the whole: then all
        ranks must call this."""
        return [_whole_held(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def restore(self, keep: Tensor, held: Sequence[Tensor | None]) -> None:
        """Installs a saved mask on weights that were saved under it: nothing of the mask before it returns.

        Args:
            keep: ``(U,)`` bool.
            held: One tensor (or ``None``) for each of :attr:`parameters`.
        """
        self.final = False
        self.keep = keep.to(self.keep.device).clone()
        for parameter, saved in zip(self.parameters, held, strict=True):
            parameter.restore(self.keep, saved)

    @torch.no_grad()
    def reapply(self) -> None:
        """Restores the mask after an optimizer step."""
        for parameter in self._masked if self.final else self.parameters:
            parameter.reapply()

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Turns g_z into the gradient of the lower level, m ⊙ g_z."""
        for parameter in self._masked:
            parameter.mask_gradient()


def _whole_held(parameter: MaskedTensor) -> Tensor | None:
    held = parameter.held
    if not is_sharded(parameter.parameter):
        return None if held is None else held.clone()
    # A rank without a hidden row holds nothing; the others need its part all the same.
    return gathered(torch.zeros_like(local(parameter.parameter)) if held is None else held, parameter.parameter)
