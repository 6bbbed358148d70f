"""The census demo over several seeds: paired differences between BiFP and magnitude + fine-tuning.

    python census_seeds.py --seeds 10 --out ../docs/results/census.md

A seed changes the split, the initial weights and the order of batches. Runs are appended to a JSON-lines file as they
come and not repeated; the Markdown table is made from that file alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from census.compare import Settings, compare
from census.data import load_census
from census.report import contenders
from fairprune_plugin.fairness.constraints import CONSTRAINTS

# Two-sided 97.5 % quantiles of Student's t by degrees of freedom 1 … 19.
T975 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12)
T975 += (2.11, 2.101, 2.093)


def run(name: str, tolerance: float, ratio: float, steps: int, seed: int) -> dict[str, Any]:
    """One comparison on one seed."""
    census = load_census(seed=seed)
    constraint = CONSTRAINTS[name](tolerance=tolerance, groups=census.group_names)
    result = compare(census, Settings(constraint, ratio, 600, steps, seed, progress=False))
    row: dict[str, Any] = {"constraint": name, "tolerance": tolerance, "ratio": ratio, "steps": steps, "seed": seed}
    for contender in contenders(result):
        verdict = contender.test.verdicts[0]
        row[contender.name] = {
            "accuracy": contender.test.accuracy,
            "gap": verdict.gap,
            "half_width": verdict.half_width,
            "params": contender.size.params,
        }
    row["feasible_on_validation"] = result.fit.feasible
    return row


def interval(values: list[float]) -> str:
    """Mean and 95 % half width (Student's t over seeds)."""
    mean = statistics.fmean(values)
    half = T975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.4f} ± {half:.4f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Per setting: accuracy and gap of each model, paired differences, and how often the tolerance was met."""
    settings = sorted({(r["constraint"], r["tolerance"], r["ratio"], r["steps"]) for r in rows})
    lines = []
    for name, tolerance, ratio, steps in settings:
        of = [
            r
            for r in rows
            if (r["constraint"], r["tolerance"], r["ratio"], r["steps"]) == (name, tolerance, ratio, steps)
        ]
        if len(of) < 2:
            continue
        lines += [
            f"### {name}, tolerance {tolerance:g}, {ratio:.0%} of the hidden units removed",
            "",
            f"{steps} steps, {len(of)} seeds.",
            "",
            "| model | test accuracy | test gap | gap ≤ tolerance | gap ≤ tolerance + 95 % half width | parameters |",
            "|---|---|---|---|---|---|",
        ]
        for model in ("dense", "magnitude + fine-tuning", "BiFP"):
            cells = [r[model] for r in of]
            met = sum(c["gap"] <= tolerance for c in cells)
            near = sum(c["gap"] <= tolerance + c["half_width"] for c in cells)
            lines.append(
                f"| {model} | {interval([c['accuracy'] for c in cells])} | {interval([c['gap'] for c in cells])} "
                f"| {met}/{len(of)} | {near}/{len(of)} | {statistics.fmean(c['params'] for c in cells):,.0f} |"
            )
        accuracy = [r["BiFP"]["accuracy"] - r["magnitude + fine-tuning"]["accuracy"] for r in of]
        gap = [r["BiFP"]["gap"] - r["magnitude + fine-tuning"]["gap"] for r in of]
        feasible = sum(r["feasible_on_validation"] for r in of)
        lines += [
            "",
            f"BiFP − magnitude, paired over seeds: accuracy {interval(accuracy)}, gap {interval(gap)}. Feasible on "
            f"validation: {feasible}/{len(of)}.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="2 to 20")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--raw", type=Path, default=Path("../out/census_seeds.jsonl"))
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.raw.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.raw.read_text().splitlines()] if args.raw.exists() else []
    for name, tolerance, ratio in (
        ("equal_opportunity", 0.02, 0.5),
        ("demographic_parity", 0.05, 0.5),
        ("equal_opportunity", 0.02, 0.7),
    ):
        for seed in range(args.seeds):
            key = {"constraint": name, "tolerance": tolerance, "ratio": ratio, "steps": args.steps, "seed": seed}
            if any(all(r[k] == v for k, v in key.items()) for r in rows):
                continue
            rows.append(run(name, tolerance, ratio, args.steps, seed))
            with args.raw.open("a") as handle:
                handle.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    text = table(rows)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        head = (
            "# Adult census\n\nMade by `benchmarks/census_seeds.py`, with the settings of `make demo`; mean ± 95 % "
            "over seeds.\n\n"
        )
        args.out.write_text(head + text)


if __name__ == "__main__":
    main()
