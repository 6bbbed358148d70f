"""Loss and gap on the way between solutions (Fig. 8 of the paper).

    python -m evidence.loss_surface --faces FOLDER --page ../docs/results/loss_surface.md      # in benchmarks/

Between two solutions of one mask the weights are interpolated, batch norms are measured anew at every point, and loss and
gap on test are written down: a low path means one basin, a barrier means two. The solutions: tuning without and with the
constraint, with two tolerances, and with another order of the data.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fairprune_plugin.engine.measure.evaluate import evaluate, recalibrate_batch_norm
from fairprune_plugin.fairness.lagrangian import Lagrangian

from .command import budget, chosen, parser
from .cuts import cut
from .package_runs import tuned
from .pictures import profile
from .problems import Problem, load_problem
from .records import Row, read
from .tuning import Budget, batches

POINTS = 11
TABLE = "| setting | seed | path | barrier | gap at the ends |\n|---|---:|---|---:|---|"
INTRODUCTION = """\
Made by `python -m evidence.loss_surface` in `benchmarks/`. One mask (magnitude), tuned in several ways from the same
weights; along the straight line between two results batch norms are measured anew on 20 training batches. The barrier is
the highest test loss on the way less the higher one of the two ends.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "loss_surface", settings=("smiling",), methods=())
    commands.add_argument("--ratio", type=float, default=0.9)
    args = commands.parse_args(argv)
    rows = read(args.raw)
    args.raw.parent.mkdir(parents=True, exist_ok=True)
    for seed in [] if args.only_page else args.seeds:
        for setting in chosen(args):
            if any(row["setting"] == asdict(setting) and row["seed"] == seed for row in rows):
                continue
            problem = load_problem(setting, seed, faces=args.faces, cache_folder=args.dense)
            plan = budget(setting, "magnitude + constraint", args.ratio, args.passes)
            row = {"setting": asdict(setting), "seed": seed, "budget": asdict(plan), "paths": paths(problem, plan)}
            rows.append(row)
            with args.raw.open("a") as handle:
                handle.write(json.dumps(row) + "\n")
    if args.page is not None:
        write(args.page, rows)


def paths(problem: Problem, plan: Budget) -> dict[str, list[tuple[float, float, float]]]:
    """Name of the pair → (position, test loss, test gap) of every point between its two solutions."""
    start, _ = cut(problem, plan, "magnitude")
    strict = replace(problem.constraint, tolerance=problem.constraint.tolerance / 2)

    def solve(constraint: Any, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        other = replace(problem, seed=seed)
        return tuned(other, copy.deepcopy(start), plan.passes, plan.lr, constraint)

    fair = solve(problem.constraint, problem.seed)
    pairs = {
        "plain to fair": (solve(None, problem.seed), fair),
        "fair to fairer": (fair, solve(strict, problem.seed)),
        "fair to fair, other order of the data": (fair, solve(problem.constraint, problem.seed + 1000)),
    }
    return {name: between(problem, *pair) for name, pair in pairs.items()}


def between(problem: Problem, first: nn.Module, second: nn.Module) -> list[tuple[float, float, float]]:
    """Points of the straight line from one model's weights to the other's."""
    lagrangian = Lagrangian(problem.constraint)
    evaluate(problem.dense, problem.splits["test"], lagrangian, split="test", dense=True)
    walker = copy.deepcopy(first)
    out = []
    for number in range(POINTS):
        share = number / (POINTS - 1)
        _interpolate(walker, first, second, share)
        recalibrate_batch_norm(walker, batches(problem, 20, order=problem.seed), batches=20)
        evaluation = evaluate(walker, problem.splits["test"], lagrangian, split="test")
        out.append((round(share, 3), round(_loss(walker, problem), 5), round(evaluation.verdicts[0].gap, 5)))
    return out


@torch.no_grad()
def _interpolate(target: nn.Module, first: nn.Module, second: nn.Module, share: float) -> None:
    for own, a, b in zip(target.parameters(), first.parameters(), second.parameters(), strict=True):
        own.copy_(torch.lerp(a, b, share))


@torch.no_grad()
def _loss(model: nn.Module, problem: Problem) -> float:
    model.eval()
    total, count = torch.zeros(()), 0
    for x, y, _ in problem.splits["test"]:
        total += F.cross_entropy(model(x), y, reduction="sum")
        count += len(y)
    return float(total) / count


def barrier_of(points: Sequence[Sequence[float]]) -> float:
    """Highest loss on the way, less the higher one of the two ends."""
    losses = [point[1] for point in points]
    return max(losses) - max(losses[0], losses[-1])


def in_words(rows: Sequence[Row]) -> str:
    """What the table shows: the highest barrier, and how often the way leads through lower loss than either end has."""
    walked = [points for row in rows for points in row["paths"].values()]
    highest = max((barrier_of(points) for points in walked), default=0.0)
    lower = sum(min(point[1] for point in points) < min(points[0][1], points[-1][1]) for points in walked)
    return (
        f"Highest barrier on {len(walked)} ways: {highest:.4f}. On {lower} of them some point in between has a "
        "lower loss than both ends.\n"
    )


def write(path: Path, rows: Sequence[Row]) -> None:
    """The page and its pictures, from records alone."""
    parts = ["# Between solutions\n", INTRODUCTION, in_words(rows), TABLE]
    for row in rows:
        for name, points in row["paths"].items():
            barrier = barrier_of(points)
            ends = f"{points[0][2]:.3f} → {points[-1][2]:.3f}"
            setting = f"{row['setting']['data']} {row['setting']['target']}"
            parts.append(f"| {setting} | {row['seed']} | {name} | {barrier:.4f} | {ends} |")
    for row in rows:
        picture = path.with_suffix("") / f"{row['setting']['data']}-{row['setting']['target']}-{row['seed']}.svg"
        profile(picture, row["paths"], f"{row['setting']['data']} {row['setting']['target']}, seed {row['seed']}")
        parts.append(f"\n![loss and gap between solutions]({picture.relative_to(path.parent)})")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
