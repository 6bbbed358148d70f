"""What carries a constraint from validation to test: options of the multipliers and of the snapshot, side by side.

    python generalisation.py --seeds 10                          # census only
    python generalisation.py --seeds 5 --faces FOLDER            # and CelebA and FairFace from a folder that has both

For each setting and seed one dense model is trained; for each driver of the multipliers a copy of it is pruned with the
same passes. Accuracy and gap on train, validation and test of every moment at the target size go to a JSON-lines file;
runs that are already in it are not repeated. Selection rules are applied to those moments afterwards: the Markdown page
is made from that file alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from census.data import load_census
from census.network import FINE_TUNING_RATE, LEARNING_RATE, make_optimizer, mlp
from census.network import train as train_census
from faces import ResNet10, load_faces
from faces import train as train_faces
from fairprune_plugin import Constraint
from fairprune_plugin.engine.measure.evaluate import evaluate
from fairprune_plugin.engine.results.result import HistoryRow
from fairprune_plugin.fairness.constraints import CONSTRAINTS
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.torch_pruning import BiFPPruner
from generalisation_page import page


@dataclass(frozen=True)
class Drive:
    """What moves the multipliers.

    Attributes:
        driver: Which data.
        margin: Tightening of the tolerance, in half widths.
    """

    driver: str
    margin: float = 0.0


DRIVES = {
    "train": Drive("train"),
    "validation": Drive("validation"),
    "both": Drive("both"),
    "validation, margin 1": Drive("validation", 1.0),
    "folds": Drive("folds"),
}


@dataclass(frozen=True)
class Setting:
    """Data, constraint and size."""

    data: str
    target: str
    sensitive: str
    constraint: str
    tolerance: float
    ratio: float
    budget: str
    steps: int


CENSUS = (
    Setting("census", "income", "gender", "equal_opportunity", 0.02, 0.5, "channels", 400),
    Setting("census", "income", "gender", "demographic_parity", 0.05, 0.5, "channels", 400),
    Setting("census", "income", "gender_x_ethnicity", "demographic_parity", 0.1, 0.5, "channels", 400),
)
FACES = (
    Setting("celeba", "Smiling", "Male", "equal_opportunity", 0.03, 0.9, "params", 300),
    Setting("celeba", "Bags_Under_Eyes", "Male", "equal_opportunity", 0.03, 0.9, "params", 300),
    Setting("fairface", "gender", "race", "accuracy_parity", 0.1, 0.9, "params", 300),
)


@dataclass(frozen=True)
class Problem:
    """A trained dense model and its data."""

    dense: nn.Module
    output: nn.Module
    example: torch.Tensor
    groups: tuple[str, ...]
    train: Any  # fresh training loader, called
    lr: float
    splits: dict[str, Any]  # loaders for evaluation


def census_problem(setting: Setting, seed: int) -> Problem:
    """The census network; the seed also draws the split."""
    census = load_census(sensitive=setting.sensitive, seed=seed)
    torch.manual_seed(seed)
    dense = mlp(census.num_features)
    train_census(dense, census.train, steps=600, lr=LEARNING_RATE, seed=seed)
    splits = {"train": census.train, "validation": census.validation, "test": census.test}
    return Problem(
        dense=dense,
        output=dense[-1],
        example=census.train.x[:2],
        groups=census.group_names,
        train=lambda: census.train.loader(256, shuffle=True, seed=seed),
        lr=FINE_TUNING_RATE,
        splits={name: list(split.loader(4096, shuffle=False)) for name, split in splits.items()},
    )


def face_problem(setting: Setting, seed: int, root: Path, cache: dict[Any, Any]) -> Problem:
    """ResNet10 of width 16 with a stem of stride 2, on 32 x 32 pixels."""
    key = (setting.data, setting.target, setting.sensitive)
    if key not in cache:
        cache[key] = load_faces(setting.data, root, target=setting.target, sensitive=setting.sensitive)
    faces = cache[key]
    torch.manual_seed(seed)
    dense = ResNet10(width=16, stem_stride=2).to(memory_format=torch.channels_last)
    train_faces(dense, faces["train"], epochs=5 if setting.data == "celeba" else 12, seed=seed)

    def fresh() -> Any:
        generator = torch.Generator().manual_seed(seed)
        return faces["train"].loader(batch_size=128, shuffle=True, flip=True, drop_last=True, generator=generator)

    names = {"train": "train", "val": "validation", "test": "test"}
    return Problem(
        dense=dense,
        output=dense.fc,
        example=faces["test"].batch(slice(0, 2))[0],
        groups=faces["train"].group_names,
        train=fresh,
        lr=0.05,
        # Rates on the training images need no more of them than the other splits have.
        splits={name: _first(faces[split], 4000).loader(batch_size=256) for split, name in names.items()},
    )


def _first(split: Any, limit: int) -> Any:
    """All images of a split, or for training images a fixed random part."""
    if not split.name.endswith("train"):
        return split
    return split.subset(torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:limit])


def run(problem: Problem, setting: Setting, drive: Drive, seed: int) -> dict[str, Any]:
    """Prunes a copy of the dense model and measures every moment at the target size on all splits.

    Which moment is returned is a matter of the selection rule alone, so that one run serves all rules.
    """
    begin = time.perf_counter()
    constraint = CONSTRAINTS[setting.constraint](tolerance=setting.tolerance, groups=problem.groups)
    model, output = copy.deepcopy((problem.dense, problem.output))
    torch.manual_seed(seed)
    pruner = BiFPPruner(
        model,
        problem.example,
        pruning_ratio=setting.ratio,
        target=setting.budget,
        ignored_layers=[output],
        constraint=constraint,
        total_steps=setting.steps,
        multipliers={"margin": drive.margin},
    )
    optimizer, schedule = make_optimizer(model, setting.steps, problem.lr)
    moments: list[dict[str, Any]] = []

    def measure(row: HistoryRow) -> None:
        if row.at_target:
            moments.append(
                {"step": row.step, "training_gap": row.training_gaps[0], **judge(model, problem, constraint)}
            )

    pruner.fit(
        problem.train(),
        optimizer,
        validation=problem.splits["validation"],
        driver=drive.driver,
        select_by="gap",  # the rules are applied afterwards
        lr_scheduler=schedule,
        progress=False,
        recalibration_batches=0,
        on_evaluation=measure,
    )
    return {"seconds": round(time.perf_counter() - begin, 1), "moments": moments}


def judge(model: nn.Module, problem: Problem, constraint: Constraint) -> dict[str, Any]:
    """Accuracy, gap, its half width and upper bound on every split (masked models compute what pruned ones do)."""
    lagrangian = Lagrangian(constraint)
    out = {}
    for name, loader in problem.splits.items():
        evaluation = evaluate(model, loader, lagrangian, split=name)
        verdict = evaluation.verdicts[0]
        out[name] = {
            "accuracy": evaluation.accuracy,
            "gap": verdict.gap,
            "half_width": verdict.half_width,
            "upper": verdict.upper,
            "degenerate": evaluation.degenerate,
        }
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--faces", type=Path, help="folder that holds celeba/ and fairface/")
    parser.add_argument("--data", nargs="+", choices=("census", "celeba", "fairface"), help="only these")
    parser.add_argument("--drives", nargs="+", choices=tuple(DRIVES), default=list(DRIVES), help="only these")
    parser.add_argument("--raw", type=Path, default=Path("../out/generalisation.jsonl"))
    parser.add_argument("--out", type=Path, help="Markdown page to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.raw.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.raw.read_text().splitlines()] if args.raw.exists() else []
    done = {
        (row["setting"]["data"], json.dumps(row["setting"], sort_keys=True), row["drive"], row["seed"]) for row in rows
    }
    for setting, seed, todo, problem in plan(args, done):
        for name in todo:
            row = {
                "setting": asdict(setting),
                "drive": name,
                "seed": seed,
                **run(problem, setting, DRIVES[name], seed),
            }
            rows.append(row)
            with args.raw.open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            last = row["moments"][-1]["test"]
            print(f"{setting.data} {setting.target} {setting.constraint} {seed} {name}: {last}", flush=True)
    text = page(rows)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


def plan(args: argparse.Namespace, done: set[Any]) -> Iterator[tuple[Setting, int, list[str], Problem]]:
    """What is still to be run; a dense model is trained only where something is missing."""
    cache: dict[Any, Any] = {}
    settings = (*CENSUS, *(FACES if args.faces is not None else ()))
    settings = tuple(setting for setting in settings if not args.data or setting.data in args.data)
    for seed in range(args.seeds):  # the outer loop, so that an interrupted benchmark is balanced
        for setting in settings:
            key = (setting.data, json.dumps(asdict(setting), sort_keys=True))
            todo = [name for name in args.drives if (*key, name, seed) not in done]
            if todo:
                problem = (
                    census_problem(setting, seed)
                    if setting.data == "census"
                    else face_problem(setting, seed, args.faces, cache)
                )
                yield setting, seed, todo, problem


if __name__ == "__main__":
    main()
