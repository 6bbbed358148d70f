"""Things users do wrong with several ranks."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel as DDP

from fairprune_plugin import AccuracyParity
from fairprune_plugin.torch_pruning import rewrap

from .parts import GROUPS, Net, global_batches, pruner_of, shard
from .refusals import Cases, backward

case = Cases()


@case
def no_wrapper(rank: int, world: int) -> None:
    torch.manual_seed(0)
    model = Net()
    pruner = pruner_of(model, None)
    backward(pruner, model, rank, world)
    pruner.regularize(model)


@case
def other_weights(rank: int, world: int) -> None:
    torch.manual_seed(rank)
    model = Net()
    pruner = pruner_of(model, None)
    backward(pruner, model, rank, world)
    pruner.regularize(model)


@case
def never_synchronised(rank: int, world: int) -> None:
    model = Net()
    trained, pruner = DDP(model), pruner_of(model, None, total_steps=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, batch in enumerate(global_batches(4)):
        x, y, s = shard(batch, rank, world)
        optimizer.zero_grad()
        with contextlib.nullcontext() if step == 0 else trained.no_sync():
            pruner.loss(trained(x), y, s).backward()
        pruner.regularize(trained)
        optimizer.step()
    pruner.step()


@case
def joined(rank: int, world: int) -> None:
    model = Net()
    trained, pruner = DDP(model), pruner_of(model, None)
    with Join([trained]):
        backward(pruner, trained, rank, world)
        pruner.regularize(trained)


@case
def other_length(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None, total_steps=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.fit(global_batches(4 + rank), optimizer, epochs=2, progress=False)


@case
def other_settings(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.fit(global_batches(4), optimizer, dual_every=1 + rank, progress=False)


@case
def bad_loader_of_one(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS))
    batches: list[Any] = global_batches(4)
    if rank == 1:
        batches[2] = batches[2][:2]
    pruner.fit(batches, torch.optim.SGD(model.parameters(), lr=0.1), progress=False)


@case
def bad_evaluation_of_one(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS))
    pruner.evaluate(global_batches(2) if rank == 0 else [])
    pruner.evaluate(global_batches(2) if rank == 0 else [(torch.zeros(2, 6), torch.zeros(2), torch.ones(2) * 9)])


@case
def nobody_has_the_group(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS + 1))
    batches = [shard(batch, rank, world) for batch in global_batches(4)]
    pruner.fit(batches, torch.optim.SGD(model.parameters(), lr=0.1), progress=False)


@case
def not_a_wrapper(rank: int, world: int) -> None:
    rewrap(Net())  # type: ignore[arg-type]


def mistakes(rank: int, world: int) -> dict[str, Any]:
    """All of them."""
    return case.told_on(rank, world)
