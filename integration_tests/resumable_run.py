"""A small run with every kind of randomness, to be killed and resumed; as a script it is killed again and again.

The script forks a child that trains with checkpoints, kills it with SIGKILL once it has taken a random number of steps
(told through a pipe) and some random milliseconds more, and starts the next one, which resumes; after the given number
of kills a child runs to its end. Forking after the imports makes a restart cost milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from driving import SmallMLP, example_of
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.engine.results.result import FitResult
from fairprune_plugin.torch_pruning import BiFPPruner

STEPS = 48


class Dropping(SmallMLP):
    """Draws on torch's global random state in every forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.1, self.training))


def data(samples: int, seed: int) -> TensorDataset:
    """Labels that follow from the inputs, less so for the second group."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (samples,), generator=generator)
    s = torch.randint(0, 2, (samples,), generator=generator)
    x = torch.randn(samples, 6, generator=generator) + y[:, None] * (1.5 - s[:, None])
    return TensorDataset(x, y, s)


def train(
    folder: str | Path | None,
    *,
    seed: int = 0,
    rounds: int = 2,
    generator: bool = True,
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None,
    pruner_options: dict[str, Any] | None = None,
    adam: dict[str, Any] | None = None,
    beside: Iterable[Tensor] = (),
    **options: Any,
) -> tuple[FitResult, BiFPPruner]:
    """The run: three batches of 32 in an epoch, shuffled, with momentum, a scheduler and rounds of removal.

    Args:
        folder: For checkpoints.
        seed: Of everything that a checkpoint must bring back: another one must not matter to a resumed run.
        rounds: Of removal.
        generator: Whether the loader has a generator of its own or draws on torch's global state.
        forward: Called instead of the model.
        pruner_options: Of the pruner.
        adam: Of the optimizer.
        beside: Parameters that are trained beside the model.
        **options: Of ``fit``; ``lr_scheduler`` as a function of the optimizer.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    model = Dropping()
    pruner = BiFPPruner(
        model,
        example_of(model),
        ignored_layers=[model.head],
        constraint=EqualOpportunity(tolerance=0.05),
        iterative_steps=rounds,
        self_check=False,
        **{"pruning_ratio": 0.5, **(pruner_options or {})},
    )
    optimizer = torch.optim.Adam([*model.parameters(), *beside], **{"lr": 0.02, **(adam or {})})
    shuffle = torch.Generator().manual_seed(seed) if generator else None
    defaults = {
        "validation": DataLoader(data(60, 1), batch_size=20, shuffle=True),
        "epochs": STEPS // 3,
        "progress": False,
        "checkpoint_dir": folder,
        "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        "validate_every": 8,
        **({"checkpoint_every": 4} if folder is not None else {}),
    }
    if callable(options.get("lr_scheduler")):
        options["lr_scheduler"] = options["lr_scheduler"](optimizer)
    if forward is not None:
        defaults["forward"] = forward
    loader = DataLoader(data(96, 0), batch_size=32, shuffle=True, generator=shuffle)
    return pruner.fit(options.pop("train", loader), optimizer, **{**defaults, **options}), pruner


def facts(result: FitResult, pruner: BiFPPruner) -> dict[str, Any]:
    """All that must be equal to the last bit; latencies are measured anew."""
    report = result.to_dict()
    for size in ("dense", "pruned"):
        report[size].pop("latency_ms")
    return {
        "weights": dict(result.model.state_dict()),
        "optimizer": result.optimizer.state_dict(),
        "masks": pruner.removed_rounds,
        "multipliers": [tracker.multipliers.value for tracker in pruner.lagrangian.trackers],
        "counts": [tracker.counts.state_dict() for tracker in pruner.lagrangian.trackers],
        "report": json.dumps(report),
    }


def _child(folder: str, pipe: int) -> None:
    def told(model: nn.Module, x: Tensor) -> Tensor:
        if model.training and torch.is_grad_enabled():
            os.write(pipe, b".")
        out: Tensor = model(x)
        return out

    begun = any(Path(folder).glob("checkpoint-*.pt"))
    seed = os.getpid() if begun else 0  # from the first checkpoint on, only what it holds may matter
    torch.save(facts(*train(folder, seed=seed, forward=told, checkpoint_every=2)), Path(folder, "facts.pt"))


def kill_again_and_again(folder: str, kills: int, seed: int) -> dict[str, int]:
    """Returns how often a child was killed, and how many steps all of them took together."""
    moments = random.Random(seed)
    killed = steps = 0
    while True:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _child(folder, writing)
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        os.close(writing)
        wanted, seen = moments.randrange(1, 12) if killed < kills else 10**9, 0
        while seen < wanted and (told := os.read(reading, 1)):
            seen += len(told)
        steps += seen
        if seen == wanted:
            time.sleep(moments.random() * 0.02)  # into a step, an evaluation or the writing of a checkpoint
            os.kill(child, signal.SIGKILL)
            killed += 1
        _, status = os.waitpid(child, 0)
        os.close(reading)
        if not os.WIFSIGNALED(status):
            if os.waitstatus_to_exitcode(status) != 0:
                raise SystemExit("a child failed")
            return {"killed": killed, "steps": steps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(kill_again_and_again(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
