"""Masks over the part that each rank has are, together, the mask over the whole; ranks are played one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairprune_plugin.masks import masked_parameter
from fairprune_plugin.masks.groups import ChannelGroup, ChannelSite
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.masks.norms import KeptStatistics, MaskedNorms, forget_copied_hooks
from fairprune_plugin.masks.saliency import mask_gradient
from fairprune_plugin.shards import part_of, positions_here
from toy_networks import Chain

UNITS = 4


@dataclass(eq=False)
class Shard:
    """What the masks ask a sharded parameter (torch's ``DTensor``, sharded along one dimension), without a process group."""

    shape: torch.Size
    along: int
    rank: int
    ranks: int
    here: Tensor
    grad: Any = None
    device = torch.device("cpu")

    @property
    def placements(self) -> list[Any]:
        return [SimpleNamespace(is_shard=lambda dim: dim == self.along)]

    @property
    def device_mesh(self) -> Any:
        return SimpleNamespace(size=lambda: self.ranks, get_local_rank=lambda: self.rank)

    def dim(self) -> int:
        return len(self.shape)

    def to_local(self) -> Tensor:
        return self.here


def shards(whole: Tensor, along: int, ranks: int) -> list[Shard]:
    """As ``torch.chunk`` cuts it; ranks it has nothing for have an empty part."""
    parts = [part.clone() for part in whole.detach().chunk(ranks, along)]
    parts += [whole.detach().narrow(along, 0, 0).clone()] * (ranks - len(parts))
    return [Shard(whole.shape, along, rank, ranks, part) for rank, part in enumerate(parts)]


@given(st.integers(0, 12), st.integers(1, 5))
def test_positions_are_those_of_chunks(size: int, ranks: int) -> None:
    whole = torch.arange(size)
    for shard in shards(whole, 0, ranks):
        assert list(positions_here(shard, 0)) == shard.here.tolist()
        assert torch.equal(part_of(whole, shard), shard.here)
    assert positions_here(whole, 0) == range(size)


@st.composite
def crossings(draw: st.DrawFn) -> tuple[tuple[int, ...], int, dict[tuple[int, bool], list[int]]]:
    """A shape, the dimension it is sharded along, and for each (dimension, masked?) the unit of each position."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    dims = st.integers(0, len(shape) - 1)
    keys = draw(st.lists(st.tuples(dims, st.booleans()), min_size=1, max_size=4, unique=True))
    units = {key: [draw(st.integers(-1, UNITS - 1)) for _ in range(shape[key[0]])] for key in keys}
    return shape, draw(dims), units


def masked(parameter: Any, crossed: dict[tuple[int, bool], list[int]]) -> MaskedWeights:
    sites: dict[bool, list[ChannelSite]] = {True: [], False: []}
    for (dim, multiplies), units in crossed.items():
        unit = torch.tensor(units)
        index = (unit >= 0).nonzero().reshape(-1)
        sites[multiplies].append(ChannelSite(parameter, "p", dim, index, unit[index]))
    return MaskedWeights((ChannelGroup("g", UNITS, 1, tuple(sites[True]), tuple(sites[False])),))


MASKS = st.lists(st.lists(st.booleans(), min_size=UNITS, max_size=UNITS) | st.just("step"), min_size=1, max_size=6)


@pytest.mark.parametrize("unseen", [False, True], ids=["by-position", "by-flags"])
def test_any_sequence_of_masks_and_steps(unseen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if unseen:  # as on an accelerator
        monkeypatch.setattr(masked_parameter, "reading_waits", lambda device: True)

    @settings(max_examples=40)
    @given(crossings(), st.integers(1, 4), MASKS, st.integers(0, 1000))
    def together_as_the_whole(layout: Any, ranks: int, steps: list[Any], seed: int) -> None:
        shape, along, crossed = layout
        generator = torch.Generator().manual_seed(seed)
        whole = nn.Parameter(torch.randn(shape, generator=generator))
        weights = masked(whole, crossed)
        if not weights.crossed:
            return
        parts = shards(whole, along, ranks)
        of_ranks = [masked(part, crossed) for part in parts]
        for step in steps:
            if step == "step":
                noise = torch.randn(shape, generator=generator)
                whole.data.add_(noise)
                for part in parts:
                    part.here.add_(part_of(noise, part))
                for own in (weights, *of_ranks):
                    own.reapply()
            else:
                for own in (weights, *of_ranks):
                    own.set(torch.tensor(step))
            assert torch.equal(torch.cat([part.here for part in parts], along), whole)
        whole.grad = torch.randn(shape, generator=generator)
        for part in parts:
            part.grad = Shard(part.shape, along, part.rank, ranks, part_of(whole.grad, part))
        total = sum(mask_gradient(own, inverse_gamma=0.3) for own in of_ranks)
        torch.testing.assert_close(total, mask_gradient(weights, inverse_gamma=0.3))
        for own in (weights, *of_ranks):
            own.mask_gradients()
        assert torch.equal(torch.cat([part.grad.here for part in parts], along), whole.grad)
        (full,) = (own.full_values() for own in weights.parameters)
        # A saved mask, with all that it holds, on weights that were saved under it.
        again = [masked(part, crossed) for part in shards(whole, along, ranks)]
        for own in again:
            own.restore(weights.keep, weights.held())
        assert torch.equal(torch.cat([own.parameters[0].full_values() for own in again], along), full)

    together_as_the_whole()


def test_hooks_that_came_with_a_copy_go() -> None:
    model = Chain()
    weights = MaskedWeights(model.groups())
    norms = MaskedNorms(weights)
    weights.set(torch.arange(weights.num_units) != 8)
    norms.refresh()
    hooked = [m for m in model.modules() if any(isinstance(h, KeptStatistics) for h in m._forward_hooks.values())]
    assert hooked
    seen: list[nn.Module] = []
    hooked[0].register_forward_hook(lambda module, args, output: seen.append(module))
    forget_copied_hooks(model)
    model(torch.randn(3, 4))
    assert seen == hooked[:1], "hooks of the user's own stay"
    assert not any(isinstance(h, KeptStatistics) for m in model.modules() for h in m._forward_hooks.values())
