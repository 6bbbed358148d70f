"""What cannot be done with a sharded model."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fairprune_plugin import AccuracyParity
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.torch_pruning import BiFPPruner

from .parts import GROUPS, STEPS, Net, global_batches, pruner_of, shard
from .refusals import Cases, backward
from .sharded_networks import spread

case = Cases()


def attached(constraint: Constraint | None = None, **options: Any) -> tuple[nn.Module, BiFPPruner, Any]:
    """A model, its pruner, and the sharded copy that the pruner has been given."""
    model = Net()
    pruner = pruner_of(model, constraint, **options)
    sharded = spread(model, [])
    pruner.attach(sharded)
    return model, pruner, sharded


def whole_batches(pruner: BiFPPruner, sharded: nn.Module, steps: int) -> None:
    """Takes the mask to its target; nothing moves the weights."""
    for x, y, _ in global_batches(steps):
        pruner.loss(sharded(x), y).backward()
        pruner.regularize(sharded)


@case
def pruner_before(rank: int, world: int) -> None:
    model = Net()
    fully_shard(model)
    pruner_of(model, None)


@case
def sharded_in_place(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    fully_shard(model)
    x, y, _ = shard(global_batches(1)[0], rank, world)
    pruner.loss(model(x), y)


@case
def attached_in_place(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    fully_shard(model)
    pruner.attach(model)


@case
def not_sharded(rank: int, world: int) -> None:
    model = Net()
    pruner_of(model, None).attach(copy.deepcopy(model))


@case
def in_part(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = copy.deepcopy(model)
    fully_shard(sharded, ignored_params={sharded.fc1.weight})
    pruner.attach(sharded)


@case
def of_another_model(rank: int, world: int) -> None:
    model, other = Net(), Net()
    other.fc2 = torch.nn.Linear(16, 14)
    pruner_of(model, None).attach(spread(other, []))


@case
def frozen_in_the_copy(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    model.head.bias.requires_grad_(False)
    sharded = spread(model, [])
    model.head.bias.requires_grad_(True)
    pruner.attach(sharded)


@case
def replicated_shards(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    sharded = copy.deepcopy(model)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1, world), mesh_dim_names=("replicate", "shard")))
    pruner.attach(sharded)


@case
def over_other_ranks(rank: int, world: int) -> None:
    groups = [dist.new_group([one]) for one in range(world)]
    model = Net()
    pruner_of(model, None, process_group=groups[rank]).attach(spread(model, []))


@case
def twice(rank: int, world: int) -> None:
    model, pruner, _ = attached()
    pruner.attach(spread(model, []))


@case
def whole_model_regularized(rank: int, world: int) -> None:
    model, pruner, sharded = attached()
    backward(pruner, sharded, rank, world)
    pruner.regularize(model)


@case
def gradient_scaler(rank: int, world: int) -> None:
    _, pruner, sharded = attached()
    backward(pruner, sharded, rank, world)
    optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
    pruner.regularize(sharded, scaler=torch.amp.GradScaler("cpu"), optimizer=optimizer)


@case
def scaled_gradients(rank: int, world: int) -> None:
    """Whose factor the optimizer's step takes away again, as a scaler's does."""
    _, pruner, sharded = attached()
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


@case
def gradients_of_one_rank_overflow(rank: int, world: int) -> None:
    _, pruner, sharded = attached()
    backward(pruner, sharded, rank, world)
    if rank == 1:
        sharded.fc1.bias.grad.to_local().fill_(float("nan"))
    pruner.regularize(sharded)


@case
def never_synchronised(rank: int, world: int) -> None:
    _, pruner, sharded = attached()
    sharded.set_requires_gradient_sync(False)
    backward(pruner, sharded, rank, world)
    pruner.regularize(sharded)


@case
def fit(rank: int, world: int) -> None:
    _, pruner, sharded = attached()
    pruner.fit(global_batches(4), torch.optim.SGD(sharded.parameters(), lr=0.1), progress=False)


@case
def evaluated_alone(rank: int, world: int) -> None:
    _, pruner, _ = attached()
    if rank == 0:
        pruner.evaluate(global_batches(2), across_ranks=False)


@case
def no_batches_on_one(rank: int, world: int) -> None:
    _, pruner, _ = attached(AccuracyParity(0.02, groups=GROUPS))
    pruner.evaluate(global_batches(2) if rank == 0 else [])


@case
def bad_evaluation_of_one(rank: int, world: int) -> None:
    _, pruner, _ = attached(AccuracyParity(0.02, groups=GROUPS))
    bad = [global_batches(1)[0], (torch.zeros(2, 6), torch.zeros(2), torch.ones(2) * 9)]
    pruner.evaluate(global_batches(4) if rank == 0 else bad)


@case
def nothing_to_gather(rank: int, world: int) -> None:
    pruner_of(Net(), None).gather()


@case
def weights_not_under_the_mask(rank: int, world: int) -> None:
    """Written by rank 1 into its rows."""
    _, pruner, sharded = attached()
    whole_batches(pruner, sharded, STEPS)
    if rank == 1:
        with torch.no_grad():
            sharded.fc2.weight.to_local().fill_(1.0)
    pruner.step()


@case
def attached_in_the_middle(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(model(x), y, s)
    pruner.attach(spread(model, []))


@case
def attached_at_the_end(rank: int, world: int) -> None:
    model = Net()
    pruner = pruner_of(model, None)
    pruner.load_state_dict(_state_of_a_finished_run(rounds=1))
    pruner.attach(spread(model, []))


@case
def state_of_a_later_round(rank: int, world: int) -> None:
    _, pruner, _ = attached(iterative_steps=2)
    pruner.load_state_dict(_state_of_a_finished_run(rounds=2))


def _state_of_a_finished_run(rounds: int) -> dict[str, Any]:
    """After its first round."""
    _, pruner, sharded = attached(iterative_steps=rounds)
    whole_batches(pruner, sharded, STEPS // rounds)
    pruner.step()
    return pruner.state_dict()


def sharded_mistakes(rank: int, world: int) -> dict[str, Any]:
    """All of them."""
    return case.told_on(rank, world)
