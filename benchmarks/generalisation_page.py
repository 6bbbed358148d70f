"""The Markdown page of ``generalisation.py``, made from its rows alone."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

from paired import mean_interval
from selection_rules import RULES, Moment, applies

Row = dict[str, Any]
Chosen = dict[tuple[str, int], Moment]  # (setting, seed) → moment

HEAD = """# From validation to test

Made by `benchmarks/generalisation.py`: a run for each driver of the multipliers (*train*, *validation*, *both*: whichever is
violated more, *folds*: parts of the training data held out in turn; *margin 1*: the multipliers' tolerance is tightened by
the half width of the gap's 95 % interval), and for each rule that chooses one moment of a run by data that are not test
data: the least excess over τ of the validation *gap*, of the gap plus half of its 95 % half width, or of that interval's
*upper bound*, then the highest validation accuracy. *gap, then training gap*, in those days the default of `fit`
([method.md](../method.md) has today's): among moments of equal excess on validation, the least excess on training data (here
4,000 images, or all rows); *larger gap of both*: the larger of the two; *training counts*: running counts of recent training
batches instead, which cost nothing.

Mean over seeds ± 95 % (Student). *met*: runs whose test gap is at most τ plus its own 95 % half width, among the seeds for
which some moment of some run met τ on validation. *accuracy given up*: test accuracy of *train* with *gap*, minus that of
the line, paired; a negative number is a gain.
"""


def page(rows: list[Row]) -> str:
    """Per setting one table of all drivers and rules, then all settings together."""
    settings = sorted({_key(row) for row in rows})
    lines = [HEAD]
    for key in settings:
        lines += _setting(json.loads(key), [row for row in rows if _key(row) == key])
    lines += ["## All settings together", "", *_overall(rows)]
    return "\n".join(lines) + "\n"


def chosen(rows: list[Row], drive: str, rule: str) -> Chosen:
    """The moment that a driver's runs return under a rule."""
    return {
        (_key(row), row["seed"]): RULES[rule](row["moments"], row["setting"]["tolerance"])
        for row in rows
        if row["drive"] == drive and row["moments"] and applies(rule, row["moments"])
    }


def feasible(rows: list[Row]) -> set[tuple[str, int]]:
    """Settings and seeds for which a feasible model exists as far as validation data tell."""
    return {
        (_key(row), row["seed"])
        for row in rows
        if any(moment["validation"]["gap"] <= row["setting"]["tolerance"] for moment in row["moments"])
    }


def met(key: str, moment: Moment) -> bool:
    """Whether the test gap is within the tolerance plus its 95 % half width; an undefined gap is not."""
    test = moment["test"]
    return not math.isnan(test["gap"]) and bool(test["gap"] <= json.loads(key)["tolerance"] + test["half_width"])


def _setting(setting: dict[str, Any], rows: list[Row]) -> list[str]:
    lines = [
        f"## {setting['data']}: {setting['target']} by {setting['sensitive']}, {setting['constraint']}, "
        f"τ = {setting['tolerance']:g}",
        "",
        f"{setting['ratio']:.0%} of the {setting['budget']} removed, {setting['steps']} passes.",
        "",
        "| driver | rule | seeds | test accuracy | gap train | gap validation | gap test | met | accuracy given up "
        "| constant |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    base, possible = chosen(rows, "train", "gap"), feasible(rows)
    for drive in dict.fromkeys(row["drive"] for row in rows):
        for rule in RULES:
            picks = chosen(rows, drive, rule)
            if not picks:
                continue
            cells = [
                mean_interval([m[split]["gap"] for m in picks.values()]) for split in ("train", "validation", "test")
            ]
            accuracy = mean_interval([m["test"]["accuracy"] for m in picks.values()])
            constant = sum(m["test"]["degenerate"] for m in picks.values())
            lines.append(
                f"| {drive} | {rule} | {len(picks)} | {accuracy} | {' | '.join(cells)} | {_met(picks, possible)} "
                f"| {mean_interval(_given_up(base, picks))} | {constant} |"
            )
    return [*lines, ""]


def _overall(rows: list[Row]) -> list[str]:
    lines = [
        "| driver | rule | met | test gap ≤ τ | mean excess of the test gap over τ | accuracy given up |",
        "|---|---|---|---|---|---|",
    ]
    base, possible = chosen(rows, "train", "gap"), feasible(rows)
    for drive in dict.fromkeys(row["drive"] for row in rows):
        for rule in RULES:
            picks = {key: moment for key, moment in chosen(rows, drive, rule).items() if key in possible}
            if not picks:
                continue
            over = [max(0.0, m["test"]["gap"] - json.loads(key)["tolerance"]) for (key, _), m in picks.items()]
            strict = sum(excess == 0.0 for excess in over)
            lines.append(
                f"| {drive} | {rule} | {_met(picks, possible)} | {strict}/{len(picks)} | {statistics.fmean(over):.4f} "
                f"| {mean_interval(_given_up(base, picks))} |"
            )
    return lines


def _met(picks: Chosen, possible: set[tuple[str, int]]) -> str:
    counted = [(key, moment) for key, moment in picks.items() if key in possible]
    return f"{sum(met(key[0], moment) for key, moment in counted)}/{len(counted)}"


def _given_up(base: Chosen, picks: Chosen) -> list[float]:
    return [base[key]["test"]["accuracy"] - m["test"]["accuracy"] for key, m in picks.items() if key in base]


def _key(row: Row) -> str:
    return json.dumps(row["setting"], sort_keys=True)
