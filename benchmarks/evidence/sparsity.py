"""Accuracy and gap against sparsity, for every method (Figs. 3 and 4 of the paper).

    python -m evidence.sparsity --faces FOLDER --page ../docs/results/sparsity.md      # in benchmarks/

Every method starts from the same dense model, removes the same share of the parameters, and has the same number of
forward-backward passes. Test rates are those of the moment that validation chose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .command import budget, chosen, parser
from .methods import METHODS, applies
from .pictures import curves, plane
from .problems import Setting
from .records import Job, Row, collect
from .statistics import AHEAD, ALIKE, BEHIND, TRADES
from .tables import SIZE, by_method, comparison_table, standings, within

RATIOS = (0.2, 0.5, 0.7, 0.9, 0.95)
OWN = "bifp"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "sparsity", settings=("smiling",), methods=tuple(METHODS))
    commands.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    args = commands.parse_args(argv)
    settings = chosen(args)
    jobs = [
        Job(setting, method, budget(setting, method, 0.0 if method == "dense" else ratio, args.passes), seed)
        for seed in args.seeds  # the outer loop, so that an interrupted benchmark is balanced
        for setting in settings
        for ratio in args.ratios
        for method in args.methods
        if applies(method, setting)
    ]
    rows = collect(args, jobs, METHODS)
    if args.page is not None:
        write(args.page, rows)


@dataclass(frozen=True)
class Page:
    """What a page says around its tables.

    Attributes:
        title: Of the page.
        introduction: Below it.
        removed: What the ratio is a share of.
        size: Columns of the size, as :func:`.tables.comparison_table` has them.
    """

    title: str
    introduction: str
    removed: str = "parameters"
    size: Mapping[str, str] = field(default_factory=lambda: SIZE)


def write(path: Path, rows: Sequence[Row], page: Page | None = None) -> None:
    """The page and its pictures, from records alone."""
    page = page or Page("Accuracy and gap against sparsity", INTRODUCTION)
    parts = [f"# {page.title}\n", page.introduction, summary_table(rows) + "\n"]
    parts.append(f"Method by method, in how many of these settings and sizes BiFP is what:\n\n{tally_table(rows)}\n")
    parts += [f"{WITHIN}\n\n{table}\n"] if (table := within_table(rows)) else []
    for setting, own in by_setting(rows).items():
        parts.append(f"## {setting.title}\n")
        name = f"{setting.data}-{setting.target}-{setting.sensitive}-{setting.network}.svg"
        picture = path.with_suffix("") / name
        ratios = sorted({row["budget"]["ratio"] for row in own if row["method"] != "dense"})
        if len(ratios) > 1:
            curves(picture, own, setting, page.removed)
            parts.append(f"![accuracy and gap against sparsity]({picture.relative_to(path.parent)})\n")
        else:
            plane(picture, own, setting.title, tolerance=setting.tolerance)
            parts.append(f"![accuracy against gap]({picture.relative_to(path.parent)})\n")
        for ratio in ratios:
            at = [row for row in own if row["budget"]["ratio"] == ratio or row["method"] == "dense"]
            parts.append(f"{ratio:.0%} of the {page.removed} removed:\n")
            parts.append(comparison_table(at, OWN, page.size) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


INTRODUCTION = """\
Made by `python -m evidence.sparsity` in `benchmarks/`. Means over seeds with 95 % intervals (Student's t). Paired
differences are BiFP minus the method, by seed; a star marks an interval without zero, p is of the exact sign-flip
permutation test (with five seeds it cannot fall below 0.0625). *Excess* is the test gap above the tolerance: within it,
nothing more was asked for. BiFP *is* ahead of a method if it is better (starred) in one of the two and not worse in the
other, behind the other way round; "trades" means better in one and worse in the other. *Within* counts the seeds whose test
gap is at most the tolerance plus the half width of its own 95 % interval. *Passes* are forward-backward passes after the
dense training. DEGENERATE counts seeds that end with one class for everybody.

*Random*, *magnitude*, *group_norm*, *taylor*, *fpgm*, *lamp*, *snip*, *fairgrape* and *fairprune* are scores of the dense
model under this package's own budget: one of parameters over all layers, units ranked by score per root of their cost.
*Magnitude uniform* takes the same share of every layer. *Torch-pruning …* is that host's own pruner with one global ranking
of channels (*isomorphic*: Taylor's score, one ranking for each kind of layer group), *nni …* the other host's with one ratio
for all layers.
"""


def summary_table(rows: Sequence[Row]) -> str:
    """Where the method stands against the others, setting by setting."""
    lines = ["| setting | removed | BiFP is ahead of | no difference | trades | behind |", "|---|---:|---|---|---|---|"]
    for setting, own in by_setting(rows).items():
        for ratio in sorted({row["budget"]["ratio"] for row in own if row["method"] != "dense"}):
            found = standings([row for row in own if row["budget"]["ratio"] == ratio], OWN)
            cells = [f"{len(names)}: {', '.join(names)}" if names else "0" for names in found.values()]
            lines.append(f"| {setting.title} | {ratio:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tally_table(rows: Sequence[Row]) -> str:
    """Where the method stands against each of the others, over all settings and ratios."""
    tally: dict[str, Counter[str]] = {}
    for own in by_setting(rows).values():
        for ratio in sorted({row["budget"]["ratio"] for row in own if row["method"] != "dense"}):
            for where, names in standings([row for row in own if row["budget"]["ratio"] == ratio], OWN).items():
                for name in names:
                    tally.setdefault(name, Counter())[where] += 1
    lines = ["| method | settings | ahead | no difference | trades | behind |", "|---|---:|---:|---:|---:|---:|"]
    for name, counts in sorted(tally.items(), key=lambda item: (-item[1].total(), item[0])):
        cells = [str(counts[where]) for where in (AHEAD, ALIKE, TRADES, BEHIND)]
        lines.append(f"| {name} | {counts.total()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


WITHIN = """\
How many runs end with a test gap that is *within* (the tolerance and the half width of the gap's own interval), over the
settings that were run at every ratio and the methods that were run on all of these:"""


def within_table(rows: Sequence[Row]) -> str:
    """By method and ratio; nothing if no setting was run at every ratio."""
    cells: dict[float, list[dict[str, list[Row]]]] = {}
    for own in by_setting(rows).values():
        pruned = [row for row in own if row["method"] != "dense"]
        if {row["budget"]["ratio"] for row in pruned} == set(RATIOS):
            for ratio in RATIOS:
                at = [row for row in pruned if row["budget"]["ratio"] == ratio]
                cells.setdefault(ratio, []).append(by_method(at))
    if not cells:
        return ""
    everywhere = [cell for of_ratio in cells.values() for cell in of_ratio]
    lines = ["| method | " + " | ".join(f"{ratio:.0%}" for ratio in RATIOS) + " |", "|---|" + "---:|" * len(RATIOS)]
    for method in everywhere[0]:
        if all(method in cell for cell in everywhere):
            found = [[row for cell in cells[ratio] for row in cell[method]] for ratio in RATIOS]
            lines.append(
                f"| {method} | " + " | ".join(f"{sum(map(within, runs))}/{len(runs)}" for runs in found) + " |"
            )
    return "\n".join(lines)


def by_setting(rows: Sequence[Row]) -> dict[Setting, list[Row]]:
    """Records of each setting."""
    out: dict[Setting, list[Row]] = {}
    for row in rows:
        out.setdefault(Setting(**row["setting"]), []).append(row)
    return out


if __name__ == "__main__":
    main()
