"""Channels that leave together, in terms a mask understands; a host's dependency graph fills these in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ChannelSite:
    """Where a group of channels meets one dimension of one parameter.

    Attributes:
        parameter: The parameter.
        name: Its qualified name, for messages.
        dim: The dimension along which channels are removed.
        index: ``(k,)`` int64 positions along that dimension.
        unit: ``(k,)`` int64 unit of the group to which each position belongs.
    """

    parameter: Tensor
    name: str
    dim: int
    index: Tensor
    unit: Tensor


@dataclass(frozen=True)
class NormSite:
    """A normalisation whose statistics run over the channels of a group (layer norm, group norm).

    Attributes:
        module: The normalisation layer.
        unit: ``(C,)`` int64 unit of each channel, −1 where the channel belongs to another group.
    """

    module: nn.Module
    unit: Tensor


@dataclass(frozen=True)
class BlockSite:
    """A parameter that is masked in blocks of its own entries: single weights, rows, columns, tiles.

    Attributes:
        parameter: The parameter.
        name: Its qualified name, for messages.
        block: Entries of one block along each dimension; each divides the parameter's size there.
    """

    parameter: Tensor
    name: str
    block: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Blocks along each dimension."""
        return tuple(size // step for size, step in zip(self.parameter.shape, self.block, strict=True))


@dataclass(frozen=True)
class BlockGroup:
    """``U`` units, each of which is a block of every site: unit ``u`` owns block ``u`` in the grid's flat order.

    A grid of ``k · U`` blocks ties them: unit ``u`` owns the blocks ``u, u + U, …`` (the same channel of each
    group of a grouped convolution).

    Attributes:
        name: For messages.
        num_units: ``U``.
        masked: Parameters that the mask multiplies.
    """

    name: str
    num_units: int
    masked: tuple[BlockSite, ...]

    @property
    def norms(self) -> tuple[NormSite, ...]:
        """None: blocks cross no normalisation."""
        return ()


@dataclass(frozen=True)
class ChannelGroup:
    """``U`` units that a mask keeps or hides; a unit is one channel, the same channel of every convolution
    group, or a whole attention head.

    Attributes:
        name: Of the root layer.
        num_units: ``U``.
        channels_per_unit: Root channels that one unit stands for.
        masked: Sites multiplied by the mask: the in-channel weights of every consumer.
        carried: Sites of the same channels that need no mask because nobody reads them once the consumers
            are masked (producers' rows, norm affines, depthwise kernels, biases).
        norms: Normalisations with statistics across the channels.
        layers: Names of all layers in the group, for messages.
    """

    name: str
    num_units: int
    channels_per_unit: int
    masked: tuple[ChannelSite, ...]
    carried: tuple[ChannelSite, ...]
    norms: tuple[NormSite, ...] = ()
    layers: tuple[str, ...] = field(default=(), compare=False)

    @property
    def sites(self) -> tuple[ChannelSite, ...]:
        return self.masked + self.carried

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Units ``(k,)`` of layers that have some of them only, each set once: those of the branches of a concatenation."""
        of_layers = [torch.unique(site.unit) for site in self.sites]
        found = {tuple(units.tolist()): units for units in of_layers if len(units) < self.num_units}
        return tuple(found.values())

    def in_copy(self, parameters: Mapping[int, Tensor], modules: Mapping[int, nn.Module]) -> ChannelGroup:
        """The same channels in a copy of the model.

        Args:
            parameters: By the ``id`` of each parameter, that of the copy.
            modules: By the ``id`` of each module, that of the copy.
        """

        def sites(own: tuple[ChannelSite, ...]) -> tuple[ChannelSite, ...]:
            return tuple(_site_of(site, parameters[id(site.parameter)]) for site in own)

        device = next(iter(parameters.values())).device
        return replace(
            self,
            masked=sites(self.masked),
            carried=sites(self.carried),
            norms=tuple(NormSite(modules[id(norm.module)], norm.unit.to(device)) for norm in self.norms),
        )


def _site_of(site: ChannelSite, parameter: Tensor) -> ChannelSite:
    device = parameter.device
    return replace(site, parameter=parameter, index=site.index.to(device), unit=site.unit.to(device))


UnitGroup = ChannelGroup | BlockGroup


def unit_offsets(groups: Sequence[UnitGroup]) -> list[int]:
    """Position of each group's first unit in the flat vector of all units, plus the total at the end."""
    offsets = [0]
    for group in groups:
        offsets.append(offsets[-1] + group.num_units)
    return offsets


def unit_axis(size: int, device: torch.device) -> Tensor:
    """An axis of ``size`` positions that no unit owns yet (all −1), ``(size,)`` int64."""
    return torch.full((size,), -1, dtype=torch.long, device=device)
