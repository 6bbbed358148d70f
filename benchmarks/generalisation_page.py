"""The Markdown page of ``generalisation.py``, made from its rows alone."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from typing import Any

from paired import mean_interval

BASELINE = "train"


def page(rows: list[dict[str, Any]]) -> str:
    """Per setting one table of all options, then the options over all settings."""
    lines = [
        "# From validation to test",
        "",
        "Made by `benchmarks/generalisation.py`. *train*, *validation*, *folds*: which data drive the multipliers; "
        "*margin*: how many half widths of the gap's 95 % interval the multipliers' tolerance is tightened by; *upper bound*: the "
        "snapshot is chosen by the upper end of that interval instead of the gap; *last model*: no validation data at all. "
        "Mean over seeds ± 95 % (Student). *accuracy given up*: test accuracy of *train* minus that of the option, paired.",
        "",
    ]
    settings = sorted({json.dumps(row["setting"], sort_keys=True) for row in rows})
    for key in settings:
        of = [row for row in rows if json.dumps(row["setting"], sort_keys=True) == key]
        lines += _setting(json.loads(key), of)
    lines += ["## All settings together", "", *_overall(rows)]
    return "\n".join(lines) + "\n"


def _setting(setting: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    tolerance = setting["tolerance"]
    lines = [
        f"## {setting['data']}: {setting['target']} by {setting['sensitive']}, {setting['constraint']} {tolerance:g}",
        "",
        f"{setting['ratio']:.0%} of the {setting['budget']} removed, {setting['steps']} passes.",
        "",
        "| option | seeds | test accuracy | gap train | gap validation | gap test | test gap ≤ τ + half width "
        "| accuracy given up | degenerate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["option"] for row in rows):
        of = [row for row in rows if row["option"] == name]
        gaps = [mean_interval([_gap(row, split) for row in of]) for split in ("train", "validation", "test")]
        given = _given_up(rows, of)
        lines.append(
            f"| {name} | {len(of)} | {mean_interval([_test(row, 'accuracy') for row in of])} | {' | '.join(gaps)} "
            f"| {sum(_met(row) for row in of)}/{len(of)} | {given} | {sum(_test(row, 'degenerate') for row in of)} |"
        )
    return [*lines, ""]


def _overall(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "Runs that found a feasible model on validation (all runs, where validation was not looked at).",
        "",
        "| option | runs | test gap ≤ τ + half width | test gap ≤ τ | mean excess of the test gap | accuracy given up |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["option"] for row in rows):
        of = [row for row in rows if row["option"] == name and (row["feasible"] or "last model" in name)]
        if not of:
            continue
        excess = statistics.fmean(max(0.0, _gap(row, "test") - row["setting"]["tolerance"]) for row in of)
        strict = sum(_gap(row, "test") <= row["setting"]["tolerance"] for row in of)
        lines.append(
            f"| {name} | {len(of)} | {sum(_met(row) for row in of)}/{len(of)} | {strict}/{len(of)} | {excess:.4f} "
            f"| {_given_up(rows, of)} |"
        )
    return lines


def _given_up(rows: list[dict[str, Any]], of: list[dict[str, Any]]) -> str:
    key: Callable[[dict[str, Any]], tuple[str, int]] = lambda row: (json.dumps(row["setting"]), row["seed"])  # noqa: E731
    base = {key(row): _test(row, "accuracy") for row in rows if row["option"] == BASELINE}
    return mean_interval([base[key(row)] - _test(row, "accuracy") for row in of if key(row) in base])


def _test(row: dict[str, Any], field: str) -> float:
    return float(row["splits"]["test"][field])


def _gap(row: dict[str, Any], split: str) -> float:
    return float(row["splits"][split]["gap"])


def _met(row: dict[str, Any]) -> bool:
    test = row["splits"]["test"]
    return not math.isnan(test["gap"]) and bool(test["gap"] <= row["setting"]["tolerance"] + test["half_width"])
