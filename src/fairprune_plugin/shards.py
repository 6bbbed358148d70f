"""Tensors that ``fully_shard`` (FSDP2) has spread over the ranks: what is here, and the whole.

Everything else works on plain tensors. A weight of which this rank has some rows is, to a mask, those rows and the number
of the first one: what is summed over the weights of a channel becomes a part of a sum, and is added up over the ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a rank has only a part of it."""
    # By what it can do: importing the class takes seconds, and whoever has such tensors has imported it.
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part that is here, in the tensor's own memory; of a tensor that is not sharded, all of it without its graph."""
    if not is_sharded(tensor):
        return tensor.data
    sharded: Any = tensor
    with torch.no_grad():
        part: Tensor = sharded.to_local()
    return part


def positions_here(tensor: Tensor, dim: int) -> range:
    """Positions along a dimension that are here."""
    size = tensor.shape[dim]
    sharded: Any = tensor
    if not is_sharded(tensor) or not sharded.placements[0].is_shard(dim):
        return range(size)
    # As torch.chunk does it: the last ranks have fewer, or none.
    step = -(-size // sharded.device_mesh.size())
    start = min(sharded.device_mesh.get_local_rank() * step, size)
    return range(start, min(start + step, size))


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """What this rank keeps of a tensor that is to lie as another one does: a copy, where that one is."""
    whole = whole.to(like.device)
    for dim in range(like.dim()) if is_sharded(like) else ():
        here = positions_here(like, dim)
        whole = whole.narrow(dim, here.start, len(here))
    return whole.clone()


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has, spread over the ranks as another one is; if that one is not, a copy."""
    return _as(part_of(whole, like), like)


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which each rank has a part, lying as another tensor does. All ranks must call this."""
    return whole_of(_as(part, like))


@torch.no_grad()
def whole_of(tensor: Tensor) -> Tensor:
    """A sharded tensor's values on every rank, all of which must call this; a tensor that is not sharded itself."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    whole: Tensor = sharded.detach().full_tensor()
    return whole


def _as(part: Tensor, like: Tensor) -> Tensor:
    if not is_sharded(like):
        return part
    sharded: Any = like
    made: Tensor = type(sharded).from_local(
        part, sharded.device_mesh, sharded.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return made
