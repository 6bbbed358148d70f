"""What each part of the method contributes (Fig. 7 of the paper).

python -m evidence.ablations --faces FOLDER --page ../docs/results/ablations.md      # in benchmarks/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .command import DEFAULT_RATE as RATE
from .command import budget, chosen, parser
from .methods import METHODS, bifp, one_shot
from .records import Job, Row, collect
from .tables import by_setting, comparison_table

# The mask step of its own that separates the levels: with one backward pass for both they share one loss.
STRICT = {"joint": False}
ABLATIONS = {
    "bifp": bifp(),
    "strict alternation": bifp(**STRICT),
    "the former default": bifp(score_decay=0.9, prior=0.0, warmup=0.05, ramp_end=0.3, **STRICT),
    "mask from derivatives alone (no prior)": bifp(prior=0.0),
    "mask from the initial saliency alone": bifp(prior=1.0),
    "mask from LAMP's score alone": bifp(importance="lamp", prior=1.0),
    "longer ramp": bifp(ramp_end=0.5),
    "strict, mask without constraint": bifp(levels="weights", **STRICT),
    "strict, weights without constraint": bifp(levels="mask", **STRICT),
    "strict, neither with constraint": bifp(levels="none", **STRICT),
    "without the implicit term": bifp(inverse_gamma=0.0),
    "random initial scores": bifp(importance="random"),
    "relaxed scores by gradient (as printed)": bifp(score_rule="gradient"),
    "train-driven multipliers": bifp(driver="train"),
    "both drive the multipliers": bifp(driver="both"),
    "cost not counted in the ranking": bifp(cost_exponent=0.0),
    "mask not learned (magnitude + constraint)": one_shot("magnitude", constrained=True),
    "mask not learned (random + constraint)": one_shot("random", constrained=True),
}
INTRODUCTION = """\
Made by `python -m evidence.ablations` in `benchmarks/`; read as [sparsity.md](sparsity.md). "Strict" has mask steps of
their own, which cost a pass and leave the weights alone, so that the constraint can be in the loss of one level only.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    known = {**METHODS, **ABLATIONS}
    commands = parser(__doc__, "ablations", settings=("smiling",), methods=tuple(ABLATIONS), known=known)
    commands.add_argument("--ratios", nargs="+", type=float, default=[0.9])
    args = commands.parse_args(argv)
    jobs = [
        # One learning rate for all: variants differ in one thing only.
        Job(setting, method, replace(budget(setting, method, ratio, args.passes), lr=RATE[setting.network]), seed)
        for seed in args.seeds
        for setting in chosen(args)
        for ratio in args.ratios
        for method in args.methods
    ]
    rows = collect(args, jobs, known)
    if args.page is not None:
        write(args.page, rows)


def write(path: Path, rows: Sequence[Row]) -> None:
    """The page, from records alone."""
    parts = ["# Ablations\n", INTRODUCTION]
    for setting, own in by_setting(rows).items():
        parts.append(f"## {setting.title}\n")
        for ratio in sorted({row["budget"]["ratio"] for row in own}):
            at = [row for row in own if row["budget"]["ratio"] == ratio]
            parts.append(f"{ratio:.0%} of the parameters removed:\n\n{comparison_table(at, 'bifp')}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
