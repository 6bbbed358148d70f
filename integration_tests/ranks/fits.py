"""``fit`` on every rank, and what comes after a run: removal, a new wrapper, evaluation, criteria, resuming."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from driving import drive
from fairprune_plugin import AccuracyParity, DegradationParity, EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPImportance, rewrap
from fairprune_plugin.trainers.session import Session

from .parts import GROUPS, Net, data, facts, global_batches, pruner_of, shard


def train_on(rank: int, world: int) -> dict[str, Any]:
    """``step()``, a new wrapper and a new optimizer, and a few more steps."""
    torch.manual_seed(0)
    model = Net()
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS), multipliers={"lr": 0.5})
    batches = [shard(batch, rank, world) for batch in global_batches()]
    trained: Any = DDP(model, gradient_as_bucket_view=True, bucket_cap_mb=7) if world > 1 else model
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    drive(pruner, trained, optimizer, batches)
    pruner.step()
    optimizer = pruner.rebuild_optimizer(optimizer)
    kept = True
    if world > 1:
        trained = rewrap(trained)
        kept = trained.gradient_as_bucket_view and trained.bucket_bytes_cap == 7 * 2**20
    for x, y, _ in batches[:5]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained(x), y).backward()
        optimizer.step()
    evaluation = pruner.evaluate(batches)
    return {
        **facts(model, pruner),
        "settings kept": kept,
        "evaluation": evaluation.to_dict(),
        "criterion": BiFPImportance(model, batches[:4])._sums_of(model.fc2),
        "alone": pruner.evaluate(batches, across_ranks=False).samples if rank == 0 else None,
    }


def batch_norm(rank: int, world: int) -> dict[str, Any]:
    """Loops without ``fit``, of a model whose running statistics each rank takes from its own batches."""
    held_out = [data(30, 50 + seed) for seed in range(4)]
    out: dict[str, Any] = {}
    for name in ("loop", "session"):
        torch.manual_seed(0)
        model = Net(norm=True)
        pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS))
        session = Session(pruner, validation=held_out if name == "session" else None, validate_every=8)
        batches = [shard(batch, rank, world) for batch in global_batches()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        session.begin(len(batches), 0)
        trained = DDP(model)
        for x, y, s in batches:
            optimizer.zero_grad()
            session.loss(trained(x), y, s).backward()
            session.before_update()
            optimizer.step()
            session.after_update()
        own = model.norm.running_mean.clone()
        judged = pruner.evaluate(held_out) if name == "loop" else session.history[-1]
        evaluated = model.norm.running_mean.clone()
        best = session.snapshots.best
        with torch.no_grad():
            model.norm.running_mean += rank  # as further batches do
        session.end()
        out[name] = {
            "own": own,
            "accuracy": judged.accuracy,
            "samples": judged.samples if name == "loop" else best.evaluation.samples,
            "evaluated": evaluated,
            "snapshot": None if best is None else best.state,
            "removed": dict(model.state_dict()),
        }
    return out


def separate(rank: int, world: int) -> dict[str, Any]:
    """Every rank a run of its own."""
    groups = [dist.new_group([other]) for other in range(world)]
    torch.manual_seed(rank)
    model = Net()
    steps = 4 + 2 * rank
    pruner = pruner_of(model, AccuracyParity(0.02, groups=GROUPS), total_steps=steps, process_group=groups[rank])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    drive(pruner, model, optimizer, global_batches(steps))
    pruner.step()
    return {"size": pruner.lagrangian.ranks.size, "samples": float(pruner.lagrangian.trackers[0].counts.samples)}


class Tempered(nn.Module):
    """A task loss with a parameter; it begins elsewhere on every rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0 + rank))

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits * self.scale.exp(), y)


def fitted(
    rank: int,
    world: int,
    *,
    norm: bool = False,
    validation: str = "shard",
    constraint: Any = None,
    options: dict[str, Any] | None = None,
    learned_loss: bool = False,
    **of_pruner: Any,
) -> dict[str, Any]:
    """``fit`` on lists of batches: each rank has its part of every batch of the run on one process."""
    torch.manual_seed(0)
    model = Net(norm=norm)
    constraint = constraint or AccuracyParity(0.02, groups=GROUPS)
    loss = Tempered(rank) if learned_loss else None
    beside = [] if loss is None else list(loss.parameters())
    pruner = pruner_of(model, constraint, multipliers={"lr": 0.2}, task_loss=loss, **of_pruner)
    batches = [shard(batch, rank, world) for batch in global_batches(8)]
    held_out = [data(30, 50 + seed) for seed in range(4)]
    if validation == "shard":
        held_out = [shard(batch, rank, world) for batch in held_out]
    optimizer = torch.optim.SGD([*model.parameters(), *beside], lr=0.1, momentum=0.9)
    rows: list[Any] = []
    result = pruner.fit(
        batches,
        optimizer,
        validation=held_out,
        progress=False,
        validate_every=4,
        on_evaluation=rows.append,
        recalibration_batches=4,
        **(options or {}),
    )
    report = result.to_dict()
    for size in ("dense", "pruned"):
        report[size].pop("latency_ms")
    return {**facts(model, pruner), "report": report, "rows": len(rows), "beside": [p.detach() for p in beside]}


FITS: dict[str, dict[str, Any]] = {
    "fit": {},
    "fit-whole-validation": {"validation": "whole"},
    "fit-rounds": {"iterative_steps": 2},
    "fit-removed-early": {"options": {"remove_early": True}},
    "fit-batch-norm": {"norm": True},
    "fit-train-driver": {"options": {"driver": "train"}},
    "fit-degradation": {"constraint": DegradationParity(0.02, groups=GROUPS)},
    "fit-learned-loss": {"learned_loss": True},
    "fit-discovered": {"constraint": AccuracyParity(0.02, groups=None)},
    "fit-own-wrapper": {
        "options": {"wrap": lambda m: DDP(m, find_unused_parameters=True) if dist.is_initialized() else m}
    },
}


def resumed(rank: int, world: int, folder: str | None, stop: int | None, seed: int) -> dict[str, Any]:
    """``fit`` on shuffled shards, with dropout, batch norm and checkpoints; Ctrl-C reaches one rank only."""
    torch.manual_seed(seed + rank)
    model = Net(norm=True, dropout=0.1)
    constraint = EqualOpportunity(0.05, groups=GROUPS)
    pruner = pruner_of(model, constraint, total_steps=None, iterative_steps=2)
    train, held_out = TensorDataset(*data(93, 3)), TensorDataset(*data(41, 4))
    loader = DataLoader(train, 8, sampler=DistributedSampler(train, world, rank))
    validation = DataLoader(held_out, 10, sampler=DistributedSampler(held_out, world, rank, shuffle=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = [0]

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen[0] += 1
            if rank == 1 and seen[0] == stop:
                signal.raise_signal(signal.SIGINT)
        out: Tensor = module(x)
        return out

    try:
        result = pruner.fit(
            loader,
            optimizer,
            validation=validation,
            epochs=4,
            progress=False,
            forward=forward,
            checkpoint_dir=folder,
        )
    except KeyboardInterrupt:
        assert folder is not None
        files = sorted(file.name for file in Path(folder).iterdir()) if rank == 0 else []
        return {"interrupted": True, "step": pruner.engine.step_index, "files": files}
    return {
        "interrupted": False,
        **facts(result.model, pruner),
        "optimizer": result.optimizer.state_dict(),
        "history": json.dumps(result.to_dict()["history"]),
        "samples": result.after.samples,
    }
