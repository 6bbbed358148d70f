"""The same learning-rate search for every method, on seeds and a split that no result is reported for.

    python -m evidence.search --faces FOLDER                # in benchmarks/; writes learning_rates.json
    python -m evidence.search --faces FOLDER --weights      # single weights; writes learning_rates_weights.json
    python -m evidence.search --faces FOLDER --macs         # at equal MACs; writes learning_rates_macs.json
    python -m evidence.search --faces FOLDER --factors 2    # for twice the tolerance, which has rates of its own
    python -m evidence.search --faces FOLDER --passes 480   # and so has another number of passes

For each method and rate one run per setting and seed; the rate is taken whose runs are best on *validation* by the rule
that chooses moments: the mean accuracy, less the mean excess of the gap over the tolerance where the method knows the
constraint. Where that is the smallest or the largest rate that was tried, one beyond it is tried as well.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from .command import PASSES, chosen, parser, rates_key, rates_of
from .methods import METHODS, applies
from .problems import Setting
from .records import Job, Row, run_all
from .tables import excesses, values
from .tuning import Budget
from .weight_methods import PLAIN, WEIGHT_METHODS

CANDIDATES = {
    "resnet10": (0.02, 0.05, 0.1),
    "mobilenetv2": (0.02, 0.05, 0.1),
    "vit": (5e-4, 1e-3, 2e-3),
    "mlp": (0.01, 0.02, 0.05),
}
MOST = 6  # rates that are tried of one method
SEEDS = [100, 101, 102]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "search", settings=("smiling",), methods=(), known={**METHODS, **WEIGHT_METHODS})
    commands.add_argument("--ratio", type=float, default=0.9)
    kind = commands.add_mutually_exclusive_group()
    kind.add_argument("--weights", action="store_true", help="the methods on single weights")
    kind.add_argument("--macs", action="store_true", help="at equal MACs in place of equal parameters")
    commands.set_defaults(seeds=SEEDS)
    args = commands.parse_args(argv)
    methods = WEIGHT_METHODS if args.weights else METHODS
    target = "weights" if args.weights else "macs" if args.macs else "params"
    unknown = [name for name in args.methods if name not in methods]
    if unknown:
        commands.error(
            f"{', '.join(unknown)}: {'with' if args.weights else 'without'} --weights there is no such method"
        )
    cases = [
        (setting, method)
        for setting in chosen(args)
        for method in args.methods or [name for name in methods if name != "dense"]
        if args.weights or applies(method, setting)
    ]
    rates = {case: list(CANDIDATES[case[0].network]) for case in cases}
    best: dict[tuple[Setting, str], float] = {}
    while cases:
        jobs = [
            Job(setting, method, Budget(args.ratio, args.passes or PASSES[setting.network], rate, target), seed)
            for seed in args.seeds
            for setting, method in cases
            for rate in rates[setting, method]
        ]
        rows = run_all(jobs, methods, args.raw, faces=args.faces, dense_folder=args.dense)
        for case in cases:
            best[case] = best_rate([row for row in rows if (Setting(**row["setting"]), row["method"]) == case])
        further = {case: beyond(rates[case], best[case]) for case in cases if len(rates[case]) < MOST}
        cases = [case for case in cases if further.get(case) is not None]
        for case in cases:
            rates[case].append(further[case])
    path = rates_of(target)
    found = json.loads(path.read_text()) if path.exists() else {}
    for (setting, method), rate in best.items():
        found.setdefault(rates_key(setting, args.passes), {})[method] = rate
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(path.read_text())


def beyond(rates: Sequence[float], best: float) -> float | None:
    """The next rate to try, if the best one is the smallest or the largest of those tried."""
    return best / 2 if best == min(rates) else best * 2 if best == max(rates) else None


def best_rate(rows: Sequence[Row]) -> float:
    """The rate of the best runs on validation."""
    rates = sorted({row["budget"]["lr"] for row in rows})
    return max(rates, key=lambda rate: _merit([row for row in rows if row["budget"]["lr"] == rate]))


def _merit(rows: Sequence[Row]) -> tuple[int, float]:
    merit = statistics.fmean(values(rows, "accuracy", "validation"))
    if rows[0]["method"] not in PLAIN:
        merit -= statistics.fmean(excesses(rows, "validation"))
    useless = sum(row["splits"]["validation"]["degenerate"] for row in rows)  # one class for everybody
    return -useless, merit


if __name__ == "__main__":
    main()
