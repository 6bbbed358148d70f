"""The main job on real data: prune a census model with magnitude + fine-tuning and with BiFP, side by side.

Run by ``make demo``; ``make demo ARGS="--tolerance 0.03 --pruning-ratio 0.7"`` passes options on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from census.compare import Settings, compare
from census.data import SENSITIVE, load_census
from census.report import draw, table, to_dict
from fairprune_plugin import FairPruneError
from fairprune_plugin.fairness.constraints import CONSTRAINTS


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--constraint", choices=sorted(CONSTRAINTS), default="equal_opportunity")
    parser.add_argument("--tolerance", type=float, default=0.02, help="largest allowed gap between groups")
    parser.add_argument("--pruning-ratio", type=float, default=0.5, help="share of the hidden units that goes")
    parser.add_argument("--sensitive", choices=SENSITIVE, default="gender")
    parser.add_argument("--steps", type=int, default=400, help="training steps of BiFP and of the fine-tuning")
    parser.add_argument("--dense-steps", type=int, default=600, help="training steps of the dense model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison and writes the pruned model, a JSON result and a picture."""
    args = arguments(argv)
    begin = time.perf_counter()
    torch.set_num_threads(1)  # matrices this small are slower on two threads, and far slower on a busy machine
    try:
        census = load_census(sensitive=args.sensitive, seed=args.seed)
        constraint = CONSTRAINTS[args.constraint](tolerance=args.tolerance, groups=census.group_names)
        settings = Settings(constraint, args.pruning_ratio, args.dense_steps, args.steps, args.seed)
        comparison = compare(census, settings)
    except (FairPruneError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(comparison.bifp.model, args.out / "census_bifp.pt")
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    (args.out / "census.json").write_text(json.dumps(to_dict(comparison, options), indent=2))
    draw(comparison, args.out / "census.png")
    print(f"\n{table(comparison)}\n\n{comparison.fit.message}")
    print(f"\nwrote {args.out}/census_bifp.pt, census.json and census.png in {time.perf_counter() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
