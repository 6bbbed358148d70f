"""Markdown tables of records."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_BENCHMARKS = str(Path(__file__).resolve().parents[1])
if _BENCHMARKS not in sys.path:
    sys.path.insert(0, _BENCHMARKS)

from paired import mean_interval  # noqa: E402  (needs the path above)

from .problems import Setting  # noqa: E402
from .statistics import AHEAD, ALIKE, BEHIND, TRADES, Comparison, compare, standing  # noqa: E402

Row = dict[str, Any]


def values(rows: Sequence[Row], field: str, split: str = "test") -> list[float]:
    """One field of a split, record by record."""
    return [row["splits"][split][field] for row in rows]


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Records of each method, by seed, in order of appearance."""
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row["method"], []).append(row)
    return {method: sorted(found, key=lambda row: row["seed"]) for method, found in out.items()}


def by_setting(rows: Sequence[Row]) -> dict[Setting, list[Row]]:
    """Records of each setting."""
    out: dict[Setting, list[Row]] = {}
    for row in rows:
        out.setdefault(Setting(**row["setting"]), []).append(row)
    return out


def within(row: Row, split: str = "test") -> bool:
    """Whether the gap is at most the tolerance plus the half width of its own interval."""
    found = row["splits"][split]
    return bool(found["gap"] <= row["setting"]["tolerance"] + found["half_width"])


def met(row: Row, split: str = "test") -> bool:
    """Whether the gap is at most the tolerance."""
    return bool(row["splits"][split]["gap"] <= row["setting"]["tolerance"])


def excesses(rows: Sequence[Row], split: str = "test") -> list[float]:
    """By how much the gaps exceed the tolerance; NaN where a gap is undefined."""
    return [
        gap if math.isnan(gap) else max(0.0, gap - row["setting"]["tolerance"])
        for row, gap in zip(rows, values(rows, "gap", split), strict=True)
    ]


def against(methods: dict[str, list[Row]], own: str, other: str) -> tuple[Comparison, Comparison] | None:
    """Paired differences of ``own`` to another method, in accuracy and in excess; none without common seeds."""
    seeds = {row["seed"] for row in methods.get(own, [])} & {row["seed"] for row in methods[other]}
    if own == other or not seeds:
        return None
    ours, theirs = ([row for row in methods[name] if row["seed"] in seeds] for name in (own, other))
    return compare(values(ours, "accuracy"), values(theirs, "accuracy")), compare(excesses(ours), excesses(theirs))


SIZE = {"parameters": "params", "MACs": "macs"}  # title and field of a record


def comparison_table(rows: Sequence[Row], own: str, size: Mapping[str, str] = SIZE) -> str:
    """One line per method: test accuracy and gap, the paired differences of ``own`` to it, and its size.

    Args:
        rows: Records.
        own: The method that the others are compared with.
        size: Columns of the size, title → field of a record; "–" where a record has none.
    """
    methods = by_method(rows)
    titles = " | ".join(size)
    lines = [
        f"| method | seeds | test accuracy | test gap | within | BiFP − it, accuracy | BiFP − it, excess | BiFP is "
        f"| {titles} | passes | seconds |",
        "|---|" + "---:|" * (9 + len(size)),
    ]
    for method, found in methods.items():
        pair = against(methods, own, method)
        compared = "– | – | –" if pair is None else f"{pair[0]} | {pair[1]} | {standing(*pair)}"
        degenerate = sum(row["splits"]["test"]["degenerate"] for row in found)
        note = f" ({degenerate} DEGENERATE)" if degenerate else ""
        lines.append(
            f"| {method}{note} | {len(found)} | {mean_interval(values(found, 'accuracy'))} "
            f"| {mean_interval(values(found, 'gap'))} | {sum(map(within, found))}/{len(found)} "
            f"| {compared} | {' | '.join(_size(found, field) for field in size.values())} "
            f"| {_mean(found, 'passes'):.0f} | {_mean(found, 'seconds'):.1f} |"
        )
    return "\n".join(lines)


def standings(rows: Sequence[Row], own: str) -> dict[str, list[str]]:
    """Names of the pruning methods that ``own`` is ahead of, behind, and so on."""
    methods = by_method([row for row in rows if row["budget"]["ratio"] > 0])
    out: dict[str, list[str]] = {AHEAD: [], ALIKE: [], TRADES: [], BEHIND: []}
    for method in methods:
        pair = against(methods, own, method)
        if pair is not None:
            out[standing(*pair)].append(method)
    return out


def _size(rows: Sequence[Row], field: str) -> str:
    return f"{_mean(rows, field):,.0f}" if all(field in row for row in rows) else "–"


def _mean(rows: Sequence[Row], field: str) -> float:
    return sum(row[field] for row in rows) / len(rows)
