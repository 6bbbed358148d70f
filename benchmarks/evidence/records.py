"""Runs and their records: one JSON line each, appended as they finish; what is in the file is not run again."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairprune_plugin.engine.measure.evaluate import evaluate
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.torch_pruning.size.macs import count

from .outcomes import Method
from .problems import Problem, Setting, load_problem
from .tuning import Budget

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        setting: What is pruned.
        method: Name in ``methods``.
        budget: What it may use.
        seed: Of everything.
    """

    setting: Setting
    method: str
    budget: Budget
    seed: int

    def asked(self) -> Row:
        """What a record says of the run before anything is measured: what makes two runs the same run."""
        return {
            "setting": asdict(self.setting),
            "method": self.method,
            "budget": asdict(self.budget),
            "seed": self.seed,
        }


def key(row: Row) -> str:
    """Equal for two records, or what two jobs ask for, if they are of the same run."""
    return json.dumps({name: row[name] for name in ("setting", "method", "budget", "seed")}, sort_keys=True)


def read(path: Path) -> list[Row]:
    """All records of a file; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_all(
    jobs: Iterable[Job], methods: Mapping[str, Method], path: Path, *, faces: Path | None, dense_folder: Path
) -> list[Row]:
    """Runs what is missing and returns the records of the jobs, in their order and each once.

    Args:
        jobs: Best grouped by setting and seed, so that a dense model is loaded once.
        methods: By name.
        path: JSON-lines file.
        faces: Folder with the face data sets.
        dense_folder: Where dense models are kept.
    """
    jobs = list(jobs)
    known = {key(row): row for row in read(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    problem: Problem | None = None
    for job in jobs:
        if key(job.asked()) in known:
            continue
        if problem is None or (problem.setting, problem.seed) != (job.setting, job.seed):
            problem = load_problem(job.setting, job.seed, faces=faces, cache_folder=dense_folder)
        row = known[key(job.asked())] = record(job, problem, methods[job.method])
        with path.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
        test = row["splits"]["test"]
        print(
            f"{job.setting.title} | ratio {job.budget.ratio:g} | {job.method} | seed {job.seed} | test accuracy "
            f"{test['accuracy']:.4f}, gap {test['gap']:.4f} | {row['params']:,} parameters | {row['seconds']} s",
            flush=True,
        )
    return [known[run] for run in dict.fromkeys(key(job.asked()) for job in jobs)]


def collect(args: argparse.Namespace, jobs: Iterable[Job], methods: Mapping[str, Method]) -> list[Row]:
    """The records a page is made of: those of a command's jobs, or with ``--only-page`` all that are in the file."""
    if args.only_page:
        return read(args.raw)
    return run_all(jobs, methods, args.raw, faces=args.faces, dense_folder=args.dense)


def record(job: Job, problem: Problem, method: Method) -> Row:
    """One run, judged on all splits."""
    torch.manual_seed(job.seed)
    begin = time.perf_counter()
    outcome = method(problem, job.budget)
    seconds = time.perf_counter() - begin
    macs, params = count(outcome.model, problem.example)
    return {
        **job.asked(),
        "passes": outcome.passes,
        "seconds": round(seconds, 1),
        "params": params,
        "macs": macs,
        "splits": judge(outcome.model, problem),
        **outcome.details,
    }


def judge(model: nn.Module, problem: Problem) -> dict[str, Any]:
    """Accuracy, the constraint's gap and all rates by group, on every split."""
    lagrangian = Lagrangian(problem.constraint)
    out = {}
    for name, loader in problem.splits.items():
        evaluate(problem.dense, loader, lagrangian, split=name, dense=True)
        evaluation = evaluate(model, loader, lagrangian, split=name)
        verdict = evaluation.verdicts[0]
        out[name] = {
            "accuracy": round(evaluation.accuracy, 5),
            "gap": round(verdict.gap, 5),
            "half_width": round(verdict.half_width, 5),
            "degenerate": evaluation.degenerate,
            "rates": {f"{item.rate} | {item.group}": [round(item.value, 4), item.samples] for item in evaluation.rates},
        }
    return out
