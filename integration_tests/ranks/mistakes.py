"""Things users do wrong; each case is played on every rank, and what it raises is written down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel as DDP

from fairprune_plugin import AccuracyParity
from fairprune_plugin.errors import FairPruneError
from fairprune_plugin.torch_pruning import rewrap

from .parts import GROUPS, Net, global_batches, pruner_of, shard


def told(action: Callable[[], Any]) -> str:
    """The error of an action, in words."""
    try:
        action()
    except FairPruneError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def no_wrapper(rank: int, world: int) -> None:
    torch.manual_seed(0)
    model = Net()
    pruner = pruner_of(model, None)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(model(x), y, s).backward()
    pruner.regularize(model)


def other_weights(rank: int, world: int) -> None:
    torch.manual_seed(rank)
    no = Net()
    pruner = pruner_of(no, None)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(no(x), y, s).backward()
    pruner.regularize(no)


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


def joined(rank: int, world: int) -> None:
    model = Net()
    trained, pruner = DDP(model), pruner_of(model, None)
    x, y, s = shard(global_batches(1)[0], rank, world)
    with Join([trained]):
        pruner.loss(trained(x), y, s).backward()
        pruner.regularize(trained)


def other_length(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None, total_steps=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.fit(global_batches(4 + rank), optimizer, epochs=2, progress=False)


def other_settings(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.fit(global_batches(4), optimizer, dual_every=1 + rank, progress=False)


def bad_loader_of_one(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS))
    batches: list[Any] = global_batches(4)
    if rank == 1:
        batches[2] = batches[2][:2]
    pruner.fit(batches, torch.optim.SGD(model.parameters(), lr=0.1), progress=False)


def bad_evaluation_of_one(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS))
    pruner.evaluate(global_batches(2) if rank == 0 else [])
    pruner.evaluate(global_batches(2) if rank == 0 else [(torch.zeros(2, 6), torch.zeros(2), torch.ones(2) * 9)])


def nobody_has_the_group(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS + 1))
    batches = [shard(batch, rank, world) for batch in global_batches(4)]
    pruner.fit(batches, torch.optim.SGD(model.parameters(), lr=0.1), progress=False)


def not_a_wrapper(rank: int, world: int) -> None:
    rewrap(Net())  # type: ignore[arg-type]


CASES: tuple[Callable[[int, int], None], ...] = (
    no_wrapper,
    other_weights,
    never_synchronised,
    joined,
    other_length,
    other_settings,
    bad_loader_of_one,
    bad_evaluation_of_one,
    nobody_has_the_group,
    not_a_wrapper,
)


def mistakes(rank: int, world: int) -> dict[str, Any]:
    """All of them."""
    return {case.__name__: told(lambda case=case: case(rank, world)) for case in CASES}
