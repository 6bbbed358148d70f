"""What a whole run costs: ``fit`` as a ratio to plain training of the dense model for as many steps.

Each round trains once plainly, once with ``fit`` and once with ``fit(remove_early=True)``, on the same batches and in random
order. Printed: medians of the per-round ratios of CPU seconds, removal included. ``--out`` writes the page.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner
from step_overhead import MODELS, host_options, table

KINDS = ("plain training", "fit", "fit(remove_early=True)")
SIZE, BATCH, VALIDATION_BATCHES = 64, 32, 3
Batch = tuple[Tensor, Tensor, Tensor]


def took(kind: str, name: str, batches: list[Batch], validation: list[Batch], ratio: float) -> tuple[float, float]:
    """CPU seconds of one run, and the share of the parameters that is left."""
    torch.manual_seed(0)
    model, head, forward = MODELS[name](SIZE)
    model.train()
    before = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    if kind == "plain training":
        begin = time.process_time()
        for x, y, _ in batches:
            optimizer.zero_grad()
            F.cross_entropy(forward(model, x), y).backward()
            optimizer.step()
        return time.process_time() - begin, 1.0
    pruner = BiFPPruner(
        model,
        batches[0][0][:1],
        constraint=EqualOpportunity(tolerance=0.02),
        total_steps=len(batches),
        self_check=False,
        **host_options(name, model, head, forward, ratio),
    )
    begin = time.process_time()
    result = pruner.fit(
        batches,
        optimizer,
        validation=validation,
        validate_every=len(batches) // 3,
        forward=forward,
        progress=False,
        recalibration_batches=0,
        remove_early=kind == KINDS[2],
    )
    seconds = time.process_time() - begin
    return seconds, sum(p.numel() for p in result.model.parameters()) / before


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    drawn = [
        (torch.randn(BATCH, 3, SIZE, SIZE), *(torch.randint(0, 2, (BATCH,)) for _ in range(2)))
        for _ in range(args.steps + VALIDATION_BATCHES)
    ]
    batches, validation = drawn[: args.steps], drawn[args.steps :]
    order, seconds, left = random.Random(0), {kind: [] for kind in KINDS}, 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(args.rounds):
            for kind in order.sample(KINDS, len(KINDS)):
                run, share = took(kind, name, batches, validation, args.ratio)
                seconds[kind].append(run)
                left = min(left, share)
    row: dict[str, Any] = {
        "model": name,
        "parameters left": f"{left:.0%}",
        "plain training, seconds": round(statistics.median(seconds[KINDS[0]]), 1),
    }
    for kind in KINDS[1:]:
        ratios = [own / plain for own, plain in zip(seconds[kind], seconds[KINDS[0]], strict=True)]
        row[f"`{kind}`"] = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}…{max(ratios):.2f})"
    return row


def page(rows: list[dict[str, Any]], args: argparse.Namespace) -> str:
    return f"""# Whole runs

Made by `benchmarks/run_time.py --rounds {args.rounds} --steps {args.steps} --ratio {args.ratio:g}`: CPU seconds of one
thread, torch {torch.__version__}; {args.steps} steps on random images of {SIZE} × {SIZE} in batches of {BATCH}, SGD with
momentum. In units of training the dense model plainly for as many steps, without any evaluation: medians (least … greatest)
over {args.rounds} rounds. A run of `fit` looks at a batch of validation data at every other step, which moves the
multipliers (`dual_every=2`), and at all {VALIDATION_BATCHES} of them three times, for the choice of the moment, besides
before and after it. `fit` removes the channels at the end and trains the large model until then; with `remove_early=True`
they go once the mask is final, after a fifth of the steps.

{table(rows)}
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["resnet18", "resnet50", "mobilenetv2", "vit_small"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--ratio", type=float, default=0.7, help="of the channels")
    parser.add_argument("--out", type=Path, help="Markdown file to write, docs/results/run_time.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.models:
        rows.append(measure(name, args))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    if args.out is not None:
        args.out.write_text(page(rows, args))


if __name__ == "__main__":
    main()
