"""What a BiFP training step costs, as a ratio to a plain step of the same model, paired within one run.

Each round takes one plain step, one weight step and one mask step on the same batch, in random order, so that a
machine whose speed drifts slows all three. Printed: medians of the per-round ratios, and the bytes of held weights.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from fairprune_plugin import BiLevelConfig, EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner
from resnet18 import ResNet18

TITLE = (
    "Made by `benchmarks/step_overhead.py`: a ResNet-18 with half of its channels hidden, CPU; medians of ratios to "
    "a plain step taken in the same round."
)


def build(ratio: float, size: int, steps: int) -> tuple[nn.Module, BiFPPruner, torch.optim.Optimizer]:
    """A model with half of its ramp done, so that masks are in force."""
    model = ResNet18(num_classes=2)
    pruner = BiFPPruner(
        model,
        torch.randn(1, 3, size, size),
        pruning_ratio=ratio,
        ignored_layers=[model.fc],
        constraint=EqualOpportunity(tolerance=0.02),
        total_steps=steps,
        bilevel=BiLevelConfig(ramp_end=1.0),
    )
    pruner.engine.set_mask(pruner.budget.project(pruner.engine.scores.value(), 0.5))
    return model, pruner, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=("cpu", "wall"), default="wall", help="cpu: of this process, one thread only"
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    order = random.Random(0)
    x = torch.randn(args.batch, 3, args.size, args.size)
    y, s = torch.randint(0, 2, (args.batch,)), torch.randint(0, 2, (args.batch,))
    model, pruner, optimizer = build(args.ratio, args.size, steps=10**6)

    def plain() -> None:
        # The same model and optimizer, so that both kinds of step touch the same memory; nothing of BiFP runs.
        pruner.engine._weights_move = False
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    def bifp(mask_step: bool) -> None:
        pruner.engine.phase_step = 500_001 if mask_step else 500_000
        assert pruner.engine.timetable.learns_mask(pruner.engine.phase_step) == mask_step
        optimizer.zero_grad()
        pruner.loss(model(x), y, s).backward()
        pruner.regularize(model)
        optimizer.step()

    clock = {"cpu": time.process_time, "wall": time.perf_counter}[args.clock]
    kinds: dict[str, Callable[[], None]] = {
        "plain": plain,
        "weight_step": lambda: bifp(False),
        "mask_step": lambda: bifp(True),
    }
    for step in kinds.values():
        step()
        step()
    ratios: dict[str, list[float]] = {"weight_step": [], "mask_step": []}
    seconds: list[float] = []
    for _ in range(args.rounds):
        took = {}
        for kind in order.sample(list(kinds), len(kinds)):
            begin = clock()
            kinds[kind]()
            took[kind] = clock() - begin
        seconds.append(took["plain"])
        for kind, values in ratios.items():
            values.append(took[kind] / took["plain"])
    held = sum(p.held.numel() for p in pruner.engine.weights.parameters if p.held is not None)
    total = sum(p.parameter.numel() for p in pruner.engine.weights.parameters)
    report = {
        "batch": args.batch,
        "size": args.size,
        "threads": args.threads,
        "clock": clock.__name__,
        "rounds": args.rounds,
        "plain_step_seconds": round(statistics.median(seconds), 4),
        **{f"{kind}_ratio": round(statistics.median(values), 4) for kind, values in ratios.items()},
        **{f"{kind}_quartiles": [round(q, 4) for q in statistics.quantiles(values)] for kind, values in ratios.items()},
        "held_copies_of_masked_weights": round(held / total, 4),
    }
    print(json.dumps(report, indent=2))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in report.items())
        args.out.write_text(f"# Cost of a training step\n\n{TITLE}\n\n| what | value |\n|---|---|\n{rows}\n")


if __name__ == "__main__":
    main()
