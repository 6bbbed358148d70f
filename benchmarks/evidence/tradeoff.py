"""Accuracy against fairness, the tolerance swept (Fig. 5 of the paper).

    python -m evidence.tradeoff --faces FOLDER --page ../docs/results/tradeoff.md      # in benchmarks/

Runs at the settings' own tolerances, and those of methods without one, are those of ``sparsity``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .command import RECORDS, budget, chosen, parser
from .methods import METHODS
from .over_settings import OWN, TITLES
from .pictures import plane
from .problems import Setting, tolerance_factor
from .records import Job, Row, collect, read
from .same_gap import against_point, points, same_gap_table
from .statistics import standing
from .tables import by_method, comparison_table

FACTORS = (0.5, 2.0, 4.0)  # of the setting's tolerance
WITH_TOLERANCE = (OWN, "magnitude + constraint", "lamp + constraint")
INTRODUCTION = """\
Made by `python -m evidence.tradeoff` in `benchmarks/`. Methods with a tolerance are run for several, each with a learning
rate that was searched for it; the points of all others, and those at the settings' own tolerances, are the runs of
[sparsity.md](sparsity.md). Means over seeds with 95 % intervals, paired differences by seed. Up and to the left is better.

**At the same gap.** Beside each point of another method stands the point of BiFP with the largest tolerance whose mean gap
on *validation* is not above that method's (if there is none, the one of the least gap); compared is what *test* data say.
BiFP is ahead if it is better (starred) in accuracy or gap and not worse in the other. The gap itself counts here, not its
excess over a tolerance, as each point has a tolerance of its own.
"""
Question = tuple[Setting, float]  # the setting with its usual tolerance, and the share removed


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "tradeoff", settings=("smiling",), methods=WITH_TOLERANCE)
    commands.add_argument("--ratio", type=float, default=0.9)
    commands.add_argument(
        "--fixed", type=Path, default=RECORDS / "sparsity.jsonl", help="records at the own tolerances"
    )
    commands.set_defaults(factors=list(FACTORS))
    args = commands.parse_args(argv)
    jobs = [
        Job(setting, method, budget(setting, method, args.ratio, args.passes), seed)
        for seed in args.seeds
        for setting in chosen(args)
        for method in args.methods
    ]
    rows = collect(args, jobs, METHODS)
    if args.page is not None:
        write(args.page, rows, read(args.fixed))


def questions(swept: Iterable[Row], fixed: Iterable[Row]) -> dict[Question, list[Row]]:
    """Records by question: the swept ones, and those at the own tolerance of each question that was swept."""
    out: dict[Question, list[Row]] = {}
    for row in swept:
        out.setdefault(question(row), []).append(row)
    for row in fixed:
        if row["method"] != "dense" and question(row) in out:
            out[question(row)].append(row)
    return out


def question(row: Row) -> Question:
    """What a record answers, whatever its tolerance."""
    setting = Setting(**row["setting"])
    return replace(setting, tolerance=setting.tolerance / tolerance_factor(setting)), row["budget"]["ratio"]


def write(path: Path, swept: Sequence[Row], fixed: Sequence[Row]) -> None:
    """The page and its pictures, from records alone."""
    asked = questions(swept, fixed)
    parts = ["# Accuracy against fairness\n", INTRODUCTION, summary(asked) + "\n"]
    for (setting, ratio), own in asked.items():
        title = f"{setting.data} {setting.target} by {setting.sensitive}, {setting.network}, {ratio:.0%} removed"
        parts.append(f"## {title}\n")
        name = f"{setting.data}-{setting.target}-{setting.sensitive}-{setting.network}-{100 * ratio:g}.svg"
        picture = path.with_suffix("") / name
        plane(picture, own, title, tolerance=setting.tolerance)
        parts.append(f"![accuracy against gap]({picture.relative_to(path.parent)})\n")
        parts.append("At the same gap:\n")
        parts.append(same_gap_table(own, OWN) + "\n")
        with_tolerance = [row for row in own if len(points(by_method(own)[row["method"]])) > 1]
        for tolerance, found in points(with_tolerance).items():
            parts.append(f"Tolerance {tolerance:g}:\n")
            parts.append(comparison_table(found, OWN) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


def summary(asked: dict[Question, list[Row]]) -> str:
    """How many points of other methods BiFP is ahead of, and so on, at the same gap."""
    lines = [
        "| setting | removed | BiFP's tolerances | " + " | ".join(TITLES.values()) + " |",
        "|---|" + "---:|" * (2 + len(TITLES)),
    ]
    for (setting, ratio), rows in asked.items():
        methods = by_method(rows)
        own = points(methods.pop(OWN))
        found: dict[str, list[str]] = {where: [] for where in TITLES}
        for method, theirs in methods.items():
            for tolerance, point in points(theirs).items():
                result = against_point(own, point)
                if result is not None:
                    name = method if len(points(theirs)) == 1 else f"{method} at {tolerance:g}"
                    found[standing(*result[1:])].append(name)
        cells = [f"{len(names)}: {', '.join(names)}" if names else "0" for names in found.values()]
        tolerances = ", ".join(f"{tolerance:g}" for tolerance in own)
        lines.append(f"| {setting.title} | {ratio:.0%} | {tolerances} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
