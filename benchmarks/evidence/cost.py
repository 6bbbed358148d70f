"""Passes and seconds to the same fairness and accuracy, against two-stage baselines (Fig. 6 of the paper).

    python -m evidence.cost --faces FOLDER --page ../docs/results/cost.md      # in benchmarks/

Every method is run with a ladder of budgets. What has to be reached: the mean test accuracy and the mean excess of the
test gap over the tolerance that the two-stage baseline reaches with the most passes (within ``SLACK``). The cost of a
method is the smallest budget whose means over seeds are that good.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from .command import budget, chosen, parser
from .methods import METHODS
from .pictures import ladder
from .records import Job, Row, collect
from .tables import by_method, by_setting, values

LADDER = (15, 30, 60, 120, 240, 480)
TWO_STAGE = ("prune-then-fair", "fair-then-prune", "lottery-then-fair")
SLACK = 0.002  # of accuracy and of gap
INTRODUCTION = """\
Made by `python -m evidence.cost` in `benchmarks/`. Means over seeds on test. For each two-stage baseline the target is
what it reaches itself with the most passes that were run: its mean accuracy less {slack}, and its mean excess of the gap
over the tolerance plus {slack}. The table says with how many passes each method gets there first; a dash: not with any.
Learning rates are those of 60 passes, with 480 passes those that were searched for at that length.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "cost", settings=("smiling",), methods=("bifp", "magnitude + constraint", *TWO_STAGE))
    commands.add_argument("--ratio", type=float, default=0.9)
    commands.add_argument("--ladder", nargs="+", type=int, default=list(LADDER))
    args = commands.parse_args(argv)
    jobs = [
        Job(setting, method, budget(setting, method, args.ratio, passes), seed)
        for seed in args.seeds
        for setting in chosen(args)
        for passes in args.ladder
        for method in args.methods
        if passes >= 60 or "lottery" not in method  # fewer passes than trainings
    ]
    rows = collect(args, jobs, METHODS)
    if args.page is not None:
        write(args.page, rows)


def write(path: Path, rows: Sequence[Row]) -> None:
    """The page and its pictures, from records alone."""
    parts = ["# Cost of the same fairness and accuracy\n", INTRODUCTION.format(slack=SLACK)]
    for setting, own in by_setting(rows).items():
        parts.append(f"## {setting.title}\n")
        picture = path.with_suffix("") / f"{setting.data}-{setting.target}-{setting.network}.svg"
        ladder(picture, own, setting)
        parts.append(f"![accuracy and gap against passes]({picture.relative_to(path.parent)})\n")
        parts += [rungs_table(own) + "\n", cost_table(own) + "\n"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


def rungs(rows: Sequence[Row]) -> dict[int, tuple[float, float, float, int]]:
    """For each number of passes: mean accuracy, mean excess of the gap, mean seconds, and seeds."""
    out = {}
    for passes in sorted({row["passes"] for row in rows}):
        at = [row for row in rows if row["passes"] == passes]
        excess = [max(0.0, gap - at[0]["setting"]["tolerance"]) for gap in values(at, "gap")]
        accuracy = statistics.fmean(values(at, "accuracy"))
        out[passes] = (accuracy, statistics.fmean(excess), statistics.fmean(row["seconds"] for row in at), len(at))
    return out


def rungs_table(rows: Sequence[Row]) -> str:
    """What each method reaches with each budget."""
    lines = ["| method | passes | seeds | accuracy | excess of the gap | seconds |", "|---|" + "---:|" * 5]
    for method, found in by_method(rows).items():
        for passes, (accuracy, excess, seconds, seeds) in rungs(found).items():
            lines.append(f"| {method} | {passes} | {seeds} | {accuracy:.4f} | {excess:.4f} | {seconds:.1f} |")
    return "\n".join(lines)


def cost_table(rows: Sequence[Row]) -> str:
    """Passes and seconds of each method to what each two-stage baseline reaches in the end."""
    methods = {method: rungs(found) for method, found in by_method(rows).items()}
    lines = [
        "| target: what this reaches | accuracy | excess | " + " | ".join(methods) + " |",
        "|---|---:|---:|" + "---:|" * len(methods),
    ]
    for baseline in (name for name in TWO_STAGE if name in methods):
        accuracy, excess, _, _ = methods[baseline][max(methods[baseline])]
        cells = []
        for found in methods.values():
            first = first_reaching(found, accuracy - SLACK, excess + SLACK)
            cells.append("–" if first is None else f"{first} ({found[first][2]:.1f} s)")
        lines.append(f"| {baseline} | {accuracy:.4f} | {excess:.4f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def first_reaching(found: dict[int, tuple[float, float, float, int]], accuracy: float, excess: float) -> int | None:
    """The smallest budget at least as accurate and at most as far over the tolerance."""
    good = [passes for passes, rung in found.items() if rung[0] >= accuracy and rung[1] <= excess]
    return min(good, default=None)


if __name__ == "__main__":
    main()
