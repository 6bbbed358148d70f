"""The same learning-rate search for every method, on seeds and a split that no result is reported for.

    python -m evidence.search --faces FOLDER                # in benchmarks/; writes learning_rates.json
    python -m evidence.search --faces FOLDER --weights      # single weights; writes learning_rates_weights.json

For each method and rate one run per setting and seed; the rate is taken whose runs are best on *validation* by the rule
that chooses moments: the mean accuracy, less the mean excess of the gap over the tolerance where the method knows the
constraint.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from .command import PASSES, chosen, parser, rates_key, rates_of
from .methods import METHODS, applies
from .problems import Setting
from .records import Job, Row, run_all
from .tables import by_method, excesses, values
from .tuning import Budget
from .weight_methods import PLAIN, WEIGHT_METHODS

CANDIDATES = {
    "resnet10": (0.02, 0.05, 0.1),
    "mobilenetv2": (0.02, 0.05, 0.1),
    "vit": (5e-4, 1e-3, 2e-3),
    "mlp": (0.01, 0.02, 0.05),
}
SEEDS = [100, 101, 102]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "search", settings=("smiling",), methods=(), known={**METHODS, **WEIGHT_METHODS})
    commands.add_argument("--ratio", type=float, default=0.9)
    commands.add_argument("--weights", action="store_true", help="the methods on single weights")
    commands.set_defaults(seeds=SEEDS)
    args = commands.parse_args(argv)
    methods, target = (WEIGHT_METHODS, "weights") if args.weights else (METHODS, "params")
    unknown = [name for name in args.methods if name not in methods]
    if unknown:
        commands.error(
            f"{', '.join(unknown)}: {'with' if args.weights else 'without'} --weights there is no such method"
        )
    jobs = [
        Job(setting, method, Budget(args.ratio, args.passes or PASSES[setting.network], rate, target), seed)
        for seed in args.seeds
        for setting in chosen(args)
        for method in args.methods or [name for name in methods if name != "dense"]
        if args.weights or applies(method, setting)
        for rate in CANDIDATES[setting.network]
    ]
    rows = run_all(jobs, methods, args.raw, faces=args.faces, dense_folder=args.dense)
    path = rates_of(target)
    found = json.loads(path.read_text()) if path.exists() else {}
    keys = [rates_key(Setting(**row["setting"])) for row in rows]
    for key in dict.fromkeys(keys):
        own = by_method([row for row, of_row in zip(rows, keys, strict=True) if of_row == key])
        found.setdefault(key, {}).update({method: best_rate(of_method) for method, of_method in own.items()})
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(path.read_text())


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
