"""The same learning-rate search for every method, on seeds and a split that no result is reported for.

    python -m evidence.search --faces FOLDER      # in benchmarks/; writes learning_rates.json

For each method and rate one run per setting and seed; the rate is taken whose runs are best on *validation* by the rule
that chooses moments: mean excess of the gap over the tolerance first where the method knows the constraint (less than
``SLACK`` counts as none), then the mean accuracy.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from .command import PASSES, RATES, chosen, parser
from .methods import METHODS, PLAIN
from .records import Job, Row, run_all
from .tables import by_method, values
from .tuning import Budget

CANDIDATES = {
    "resnet10": (0.02, 0.05, 0.1),
    "mobilenetv2": (0.02, 0.05, 0.1),
    "vit": (5e-4, 1e-3, 2e-3),
    "mlp": (0.01, 0.02, 0.05),
}
SLACK = 0.01
SEEDS = [100, 101, 102]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    methods = tuple(name for name in METHODS if name != "dense")
    commands = parser(__doc__, "search", settings=("smiling",), methods=methods)
    commands.add_argument("--ratio", type=float, default=0.9)
    commands.set_defaults(seeds=SEEDS)
    args = commands.parse_args(argv)
    jobs = [
        Job(setting, method, Budget(args.ratio, args.passes or PASSES[setting.network], rate), seed)
        for seed in args.seeds
        for setting in chosen(args)
        for method in args.methods
        for rate in CANDIDATES[setting.network]
    ]
    rows = run_all(jobs, METHODS, args.raw, faces=args.faces, dense_folder=args.dense)
    found = json.loads(RATES.read_text()) if RATES.exists() else {}
    for network in {row["setting"]["network"] for row in rows}:
        own = by_method([row for row in rows if row["setting"]["network"] == network])
        found[network] = {method: best_rate(of_method) for method, of_method in own.items()}
    RATES.write_text(json.dumps(found, indent=2) + "\n")
    print(RATES.read_text())


def best_rate(rows: Sequence[Row]) -> float:
    """The rate of the best runs on validation."""
    rates = sorted({row["budget"]["lr"] for row in rows})
    return max(rates, key=lambda rate: _merit([row for row in rows if row["budget"]["lr"] == rate]))


def _merit(rows: Sequence[Row]) -> tuple[float, float, float]:
    knows = rows[0]["method"] not in PLAIN
    excess = [
        max(0.0, gap - row["setting"]["tolerance"] - SLACK)
        for gap, row in zip(values(rows, "gap", "validation"), rows, strict=True)
    ]
    accuracy = statistics.fmean(values(rows, "accuracy", "validation"))
    useless = sum(row["splits"]["validation"]["degenerate"] for row in rows)  # one class for everybody
    return (-useless, -statistics.fmean(excess) if knows else 0.0, accuracy)


if __name__ == "__main__":
    main()
