"""FSDP2: the loop of the documentation on a model whose parameters are spread over the ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as states

from driving import drive
from fairprune_plugin import AccuracyParity
from fairprune_plugin.errors import FairPruneError
from fairprune_plugin.torch_pruning import BiFPPruner

from .loops import BAD
from .parts import GROUPS, STEPS, Net, facts, global_batches, shard
from .sharded_networks import Convolutions, Transformer, build, layers, spread, whole

ACCURACY = AccuracyParity(0.02, groups=GROUPS)
SHARDED: dict[str, dict[str, Any]] = {
    "sharded-mlp": {"constraint": ACCURACY},
    "sharded-joint": {"constraint": ACCURACY, "bilevel": {"joint": True}, "world": 3, "parts": layers, "steps": 12},
    "sharded-accumulation": {"constraint": ACCURACY, "accumulate": 3, "sizes": (19, 11)},
    "sharded-convolutions": {"constraint": ACCURACY, "net": Convolutions, "parts": layers, "steps": 12},
    "sharded-transformer": {"net": Transformer, "parts": lambda model: [*model.blocks], "steps": 12},
}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def sharded_loop(
    rank: int,
    world: int,
    *,
    net: type[nn.Module] = Net,
    parts: Callable[[nn.Module], list[nn.Module]] = whole,
    constraint: Any = None,
    sizes: tuple[int, ...] | None = None,
    accumulate: int = 1,
    steps: int = STEPS,
    **options: Any,
) -> dict[str, Any]:
    """Trains with an evaluation on the way, removes channels and goes on with the smaller model, whole.

    Args:
        rank: Of this process.
        world: Number of ranks; 1 trains the model itself.
        net: The model's class.
        parts: Of a model, those that are sharded by themselves.
        constraint: Of the pruner.
        sizes: Of the shards of data.
        accumulate: Batches in one optimizer step.
        steps: Batches in all.
        **options: Of the pruner.
    """
    model, pruner = build(net, constraint, total_steps=steps // accumulate, **options)
    batches = [shard(batch, rank, world, sizes) for batch in global_batches(steps)]
    trained: Any = model
    if world > 1:
        trained = spread(model, parts(model))
        pruner.attach(trained)
    optimizer = optimizer_of(trained)
    masks, samples, gathered = [], 0, {}
    for step, (x, y, s) in enumerate(batches):
        last = (step + 1) % accumulate == 0
        if world > 1:
            trained.set_requires_gradient_sync(last)
        (pruner.loss(trained(x), y, s) / accumulate).backward()
        if last:
            pruner.regularize(trained)
            optimizer.step()
            optimizer.zero_grad()
            masks.append(pruner.engine.weights.keep.clone())
        if step == steps // 2:
            samples = pruner.evaluate(batches[: 1 + rank]).samples
            if world > 1:
                pruner.gather()
            gathered = {name: value.clone() for name, value in model.state_dict().items()}
    held = pruner.state_dict()["engine"]["held"]
    local = [(p.to_local() if world > 1 else p).numel() for p in trained.parameters()]
    pruner.step()
    optimizer = pruner.rebuild_optimizer(optimizer)
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    x, y, _ = global_batches(1)[0]
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    told = {
        **facts(model, pruner),
        "masks": torch.stack(masks),
        "samples": samples,
        "gathered": gathered,
        "held": held,
        "momenta": momenta,
    }
    return {"told": told, "numbers here": sum(local)}


def train(
    pruner: BiFPPruner, trained: nn.Module, optimizer: torch.optim.Optimizer, rank: int, world: int, steps: range
) -> None:
    """Some of the steps, on this rank's part of their batches."""
    batches = global_batches(STEPS)[steps.start : steps.stop]
    drive(pruner, trained, optimizer, [shard(batch, rank, world) for batch in batches])


def sharded_rounds(rank: int, world: int) -> dict[str, Any]:
    """Two rounds of removal; the optimizer's momentum goes through."""
    model, pruner = build(constraint=ACCURACY, iterative_steps=2)
    optimizer = None
    for start in (0, STEPS // 2):
        trained: nn.Module = model
        if world > 1:
            trained = spread(model, [])
            pruner.attach(trained)
        optimizer = optimizer_of(trained) if optimizer is None else pruner.rebuild_optimizer(optimizer)
        train(pruner, trained, optimizer, rank, world, range(start, start + STEPS // 2))
        pruner.step()
    return facts(model, pruner)


def sharded_resumed(rank: int, world: int) -> dict[str, Any]:
    """A run that is stopped in the middle, and goes on in a new sharded model, its state loaded before or after it was
    attached, and on one rank alone."""
    ends = {}
    model, pruner = build(Convolutions, total_steps=9)
    trained = spread(model, [])
    pruner.attach(trained)
    optimizer = optimizer_of(trained)
    train(pruner, trained, optimizer, rank, world, range(6))
    state = copy.deepcopy(pruner.state_dict())
    options = states.StateDictOptions(full_state_dict=True)
    saved = copy.deepcopy(states.get_state_dict(trained, optimizer, options=options))
    train(pruner, trained, optimizer, rank, world, range(6, 9))
    pruner.step()
    ends["uninterrupted"] = facts(model, pruner)
    for how in ("loaded", "attached"):
        model, pruner = build(Convolutions, total_steps=9)
        if how == "loaded":  # the mask is on already in what is copied
            pruner.load_state_dict(state)
        trained = spread(model, [])
        pruner.attach(trained)
        if how == "attached":
            pruner.load_state_dict(state)
        optimizer = optimizer_of(trained)
        states.set_state_dict(trained, optimizer, model_state_dict=saved[0], optim_state_dict=saved[1], options=options)
        train(pruner, trained, optimizer, rank, world, range(6, 9))
        pruner.step()
        ends[how] = facts(model, pruner)
    return ends


def sharded_refused(rank: int, world: int) -> dict[str, Any]:
    """One rank has bad batches at two steps; "left out": no rank has any there. Batch norm has running statistics, of each
    rank's own batches."""
    ends = {}
    for kind in ("left out", "nan"):
        model, pruner = build(lambda: Net(norm=True), ACCURACY, total_steps=8)
        trained = spread(model, [model.fc1])
        pruner.attach(trained)
        optimizer, errors = optimizer_of(trained), []
        for step, batch in enumerate(global_batches(10)):
            x, y, s = shard(batch, rank, world)
            if step in (0, 5):
                if kind == "left out":
                    continue
                x, y, s = BAD[kind]((x, y, s)) if rank == 1 else (x, y, s)
            optimizer.zero_grad()
            try:
                loss = pruner.loss(trained(x), y, s)
            except FairPruneError as error:
                errors.append((step, type(error).__name__))
                continue
            loss.backward()
            pruner.regularize(trained)
            optimizer.step()
        pruner.step()
        ends[kind] = {**facts(model, pruner), "errors": errors}
    return ends
