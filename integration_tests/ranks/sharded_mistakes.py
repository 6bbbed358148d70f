"""What cannot be done with a sharded model; each case is played on every rank, and what it raises is written down."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fairprune_plugin import AccuracyParity

from .mistakes import told
from .parts import GROUPS, STEPS, Net, global_batches, pruner_of, shard
from .sharded_networks import spread


def pruner_before(rank: int, world: int) -> None:
    model = Net()
    fully_shard(model)
    pruner_of(model, None)


def sharded_in_place(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    fully_shard(model)
    x, y, _ = shard(global_batches(1)[0], rank, world)
    pruner.loss(model(x), y)


def attached_in_place(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    fully_shard(model)
    pruner.attach(model)


def not_sharded(rank: int, world: int) -> None:
    model = Net()
    pruner_of(model, None).attach(copy.deepcopy(model))


def in_part(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = copy.deepcopy(model)
    fully_shard(sharded, ignored_params={sharded.fc1.weight})
    pruner.attach(sharded)


def of_another_model(rank: int, world: int) -> None:
    model, other = Net(), Net()
    other.fc2 = torch.nn.Linear(16, 14)
    pruner_of(model, None).attach(spread(other, []))


def frozen_in_the_copy(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    model.head.bias.requires_grad_(False)
    sharded = spread(model, [])
    model.head.bias.requires_grad_(True)
    pruner.attach(sharded)


def replicated_shards(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = copy.deepcopy(model)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1, world), mesh_dim_names=("replicate", "shard")))
    pruner.attach(sharded)


def over_other_ranks(rank: int, world: int) -> None:
    groups = [dist.new_group([one]) for one in range(world)]
    model = Net()
    pruner_of(model, None, process_group=groups[rank]).attach(spread(model, []))


def twice(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    pruner.attach(spread(model, []))
    pruner.attach(spread(model, []))


def whole_model_regularized(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = spread(model, [])
    pruner.attach(sharded)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(sharded(x), y, s).backward()
    pruner.regularize(model)


def gradient_scaler(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = spread(model, [])
    pruner.attach(sharded)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(sharded(x), y, s).backward()
    optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
    pruner.regularize(sharded, scaler=torch.amp.GradScaler("cpu"), optimizer=optimizer)


def scaled_gradients(rank: int, world: int) -> None:
    """Whose factor the optimizer's step takes away again, as a scaler's does."""
    model = Net()
    pruner = pruner_of(model, None)
    sharded = spread(model, [])
    pruner.attach(sharded)
    optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
    for batch in global_batches(3):
        x, y, s = shard(batch, rank, world)
        (pruner.loss(sharded(x), y, s) * 1024).backward()
        pruner.regularize(sharded)
        for parameter in sharded.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(1024)
        optimizer.step()
        optimizer.zero_grad()


def gradients_of_one_rank_overflow(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = spread(model, [])
    pruner.attach(sharded)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(sharded(x), y, s).backward()
    if rank == 1:
        sharded.fc1.bias.grad.to_local().fill_(float("nan"))
    pruner.regularize(sharded)


def never_synchronised(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded: Any = spread(model, [])
    pruner.attach(sharded)
    sharded.set_requires_gradient_sync(False)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(sharded(x), y, s).backward()
    pruner.regularize(sharded)


def fit(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = spread(model, [])
    pruner.attach(sharded)
    pruner.fit(global_batches(4), torch.optim.SGD(sharded.parameters(), lr=0.1), progress=False)


def evaluated_alone(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    pruner.attach(spread(model, []))
    if rank == 0:
        pruner.evaluate(global_batches(2), across_ranks=False)


def no_batches_on_one(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS))
    pruner.attach(spread(model, []))
    pruner.evaluate(global_batches(2) if rank == 0 else [])


def bad_evaluation_of_one(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS))
    pruner.attach(spread(model, []))
    bad = [global_batches(1)[0], (torch.zeros(2, 6), torch.zeros(2), torch.ones(2) * 9)]
    pruner.evaluate(global_batches(4) if rank == 0 else bad)


def nothing_to_gather(rank: int, world: int) -> None:
    pruner_of(Net(), None).gather()


def weights_not_under_the_mask(rank: int, world: int) -> None:
    """Written by rank 1 into its rows."""
    model = Net()
    pruner = pruner_of(model, None)
    sharded = spread(model, [])
    pruner.attach(sharded)
    for x, y, _ in global_batches(STEPS):
        pruner.loss(sharded(x), y).backward()
        pruner.regularize(sharded)
    if rank == 1:
        with torch.no_grad():
            sharded.fc2.weight.to_local().fill_(1.0)
    pruner.step()


def attached_in_the_middle(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(model(x), y, s)
    pruner.attach(spread(model, []))


def attached_at_the_end(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    pruner.load_state_dict(_state_of_a_finished_run(rounds=1))
    pruner.attach(spread(model, []))


def state_of_a_later_round(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None, iterative_steps=2)
    pruner.attach(spread(model, []))
    pruner.load_state_dict(_state_of_a_finished_run(rounds=2))


def _state_of_a_finished_run(rounds: int) -> dict[str, Any]:
    """After its first round."""
    model = Net()
    pruner = pruner_of(model, None, iterative_steps=rounds)
    sharded = spread(model, [])
    pruner.attach(sharded)
    for x, y, _ in global_batches(STEPS // rounds):
        pruner.loss(sharded(x), y).backward()
        pruner.regularize(sharded)
    pruner.step()
    return pruner.state_dict()


CASES: tuple[Callable[[int, int], None], ...] = (
    pruner_before,
    sharded_in_place,
    attached_in_place,
    not_sharded,
    in_part,
    of_another_model,
    frozen_in_the_copy,
    replicated_shards,
    over_other_ranks,
    twice,
    whole_model_regularized,
    gradient_scaler,
    scaled_gradients,
    gradients_of_one_rank_overflow,
    never_synchronised,
    fit,
    evaluated_alone,
    no_batches_on_one,
    bad_evaluation_of_one,
    nothing_to_gather,
    weights_not_under_the_mask,
    attached_in_the_middle,
    attached_at_the_end,
    state_of_a_later_round,
)


def sharded_mistakes(rank: int, world: int) -> dict[str, Any]:
    """All of them."""
    return {case.__name__: told(lambda case=case: case(rank, world)) for case in CASES}
