"""The paper's setting on real faces: prune a small ResNet10 or MobileNetV2 fairly, on a data set of your own.

    python prune_faces.py --dataset celeba --root PATH --target Smiling --sensitive Male \
        --constraint equal_opportunity degradation_parity --pruning-ratio 0.5 0.85

The dense model is trained once per seed; then each method, constraint and ratio prunes a copy of it with the same
number of forward-backward passes. Results are appended to a JSON-lines file as they come; a run that is already in it
is not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faces import DATASETS, FaceDataError, MobileNetV2, ResNet10, load_faces, train
from faces.contest import METHODS, Tuning, run_method
from fairprune_plugin import FairPruneError
from fairprune_plugin.fairness.constraints import CONSTRAINTS


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(DATASETS), required=True)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set as its publisher packs it")
    parser.add_argument("--target", default="Smiling", help="attribute to predict")
    parser.add_argument("--sensitive", default="Male", help="attribute that makes the groups")
    parser.add_argument("--model", choices=("resnet10", "mobilenetv2"), default="resnet10")
    parser.add_argument("--width", type=float, default=16, help="first-stage channels, or MobileNetV2's multiplier")
    parser.add_argument("--size", type=int, default=32, help="image side in pixels")
    parser.add_argument("--constraint", nargs="+", choices=sorted(CONSTRAINTS), default=["equal_opportunity"])
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--pruning-ratio", type=float, nargs="+", default=[0.5])
    parser.add_argument("--budget", choices=("channels", "params", "macs"), default="channels")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=5, help="of the dense training")
    parser.add_argument("--steps", type=int, default=300, help="forward-backward passes of every method")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.05, help="of pruning and tuning")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, help="images per split, for a quick look")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument("--out", type=Path, default=Path("../out/faces.jsonl"), help="raw results, appended to")
    parser.add_argument("--table", type=Path, help="Markdown file for the table of this call")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the contest and prints its table."""
    args = arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        splits = load_faces(
            args.dataset,
            args.root,
            target=args.target,
            sensitive=args.sensitive,
            size=args.size,
            limit=args.limit,
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for seed in args.seed for row in contest(args, splits, seed)]
    except (FairPruneError, FaceDataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    if args.table is not None:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(table(rows) + "\n")
    return 0


def contest(args: argparse.Namespace, splits: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """All methods, constraints and ratios for one seed; trains the dense model only if something is missing."""
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    known = {json.dumps(row["key"], sort_keys=True): row for row in done}
    names = splits["train"].group_names
    rows: list[dict[str, Any]] = []
    dense: nn.Module | None = None
    for name in args.constraint:
        constraint = CONSTRAINTS[name](tolerance=args.tolerance, groups=names)
        for ratio in args.pruning_ratio:
            for method in args.methods:
                key = {
                    "method": method,
                    "constraint": constraint.to_dict(),
                    "ratio": ratio,
                    "seed": seed,
                    **{k: str(getattr(args, k)) for k in _KEY},
                }
                row = known.get(json.dumps(key, sort_keys=True))
                if row is None:
                    dense = dense or train_dense(args, splits, seed)
                    tuning = Tuning(
                        pruning_ratio=ratio,
                        target=args.budget,
                        steps=args.steps,
                        batch_size=args.batch_size,
                        lr=args.lr,
                        seed=seed,
                    )
                    torch.manual_seed(seed)
                    layer = "fc" if args.model == "resnet10" else "classifier"
                    row = {"key": key, **run_method(method, dense, layer, splits, constraint, tuning)}
                    with args.out.open("a") as handle:
                        handle.write(json.dumps(row) + "\n")
                    print(table([row]).splitlines()[-1], flush=True)
                rows.append(row)
    return rows


_KEY = ("dataset", "target", "sensitive", "model", "width", "size", "budget", "epochs", "steps", "batch_size", "lr")


def train_dense(args: argparse.Namespace, splits: dict[str, Any], seed: int) -> nn.Module:
    """The dense model, in the memory layout in which CPUs convolve fastest."""
    torch.manual_seed(seed)
    classes = len(splits["train"].class_names)
    model: nn.Module
    if args.model == "resnet10":
        model = ResNet10(num_classes=classes, width=int(args.width), stem_stride=2)
    else:
        model = MobileNetV2(num_classes=classes, width=args.width)
    model = model.to(memory_format=torch.channels_last)
    train(model, splits["train"], epochs=args.epochs, batch_size=args.batch_size, seed=seed)
    return model


def table(rows: list[dict[str, Any]]) -> str:
    """One line per run: what was asked, what came out on test, and the size."""
    lines = [
        "| target | constraint | ratio | method | seed | accuracy | gap ± 95 % | tolerance | feasible on validation "
        "| parameters | MACs |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        verdict = row["test"]["constraints"][0]
        gap = "undefined" if verdict["gap"] is None else f"{verdict['gap']:.3f} ± {verdict['half_width']:.3f}"
        feasible = {None: "–", True: "yes", False: "no"}[row["feasible_on_validation"]]
        lines.append(
            f"| {row['key']['target']} | {verdict['constraint']} | {row['pruning_ratio']:g} {row['target']} "
            f"| {row['method']} | {row['seed']} | {row['test']['accuracy']:.4f} | {gap} | {verdict['tolerance']:g} "
            f"| {feasible} | {row['params']:,} | {row['macs']:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
