"""What importing the package costs beyond torch's own import: medians over fresh interpreters, and what it loads."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

LIMIT = 0.3
MODULES = ("fairprune_plugin", "fairprune_plugin.cli", "fairprune_plugin.torch_pruning")
CODE = """
import importlib, json, sys, time
begin = time.{clock}(); import torch; torch_seconds = time.{clock}() - begin
before = set(sys.modules)
begin = time.{clock}(); importlib.import_module({module!r}); seconds = time.{clock}() - begin
print(json.dumps([torch_seconds, seconds, len(set(sys.modules) - before)]))
"""
TITLE = """# Cost of importing the package

Made by `benchmarks/import_time.py`: {clock} time in fresh interpreters with compiled bytecode, median of {rounds}; torch is
imported first and is not counted. Torch-Pruning's own import is part of the last row.

| module | seconds beyond torch | quartiles | modules loaded |
|---|---|---|---|
"""


def measure(module: str, rounds: int, clock: str) -> tuple[list[float], list[float], int]:
    """Seconds of torch's import, seconds of the module's import after it, and the number of modules that came."""
    rows = []
    for _ in range(rounds + 1):  # the first one compiles bytecode and is left out
        code = CODE.format(module=module, clock=clock)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    torch_seconds, seconds, loaded = zip(*rows[1:], strict=True)
    return list(torch_seconds), list(seconds), loaded[-1]


def main() -> int:
    """Command line; exit status 1 if ``import fairprune_plugin`` takes longer than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help="cpu: of the process (default)")
    parser.add_argument("--modules", nargs="+", default=MODULES)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    clock = {"cpu": "process_time", "wall": "perf_counter"}[arguments.clock]
    page = TITLE.format(clock={"cpu": "CPU", "wall": "wall clock"}[arguments.clock], rounds=arguments.rounds)
    medians = {}
    torch_medians = []
    for module in arguments.modules:
        torch_seconds, seconds, loaded = measure(module, arguments.rounds, clock)
        torch_medians.append(statistics.median(torch_seconds))
        medians[module] = statistics.median(seconds)
        low, _, high = statistics.quantiles(seconds)
        page += f"| `{module}` | {medians[module]:.2f} | {low:.2f} to {high:.2f} | {loaded} |\n"
    page += f"\ntorch itself: {statistics.median(torch_medians):.2f} s. "
    page += f"`import fairprune_plugin` should stay below {LIMIT} s.\n"
    print(page)
    if arguments.out is not None:
        arguments.out.write_text(page, encoding="utf-8")
    return int(medians.get("fairprune_plugin", 0) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
