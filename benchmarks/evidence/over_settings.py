"""Tables over all settings of a page: where BiFP stands against each method, and how many runs are within the tolerance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from statistics import fmean

from .many_comparisons import LEVEL, at_false_discovery_rate, at_family_wise_error
from .records import Row
from .statistics import AHEAD, ALIKE, BEHIND, TRADES, Comparison, compare, standing
from .tables import against, by_method, by_setting, met, standings, within

OWN = "bifp"
TITLES = {AHEAD: "ahead", ALIKE: "no difference", TRADES: "trades", BEHIND: "behind"}
SETTINGS_FOR_A_MEAN = 5
Pair = tuple[Comparison, Comparison]  # in accuracy and in excess


def summary_table(rows: Sequence[Row]) -> str:
    """Where the method stands against the others, setting by setting."""
    lines = ["| setting | removed | BiFP is ahead of | no difference | trades | behind |", "|---|---:|---|---|---|---|"]
    for setting, own in by_setting(rows).items():
        for ratio in sorted({row["budget"]["ratio"] for row in own if row["method"] != "dense"}):
            found = standings([row for row in own if row["budget"]["ratio"] == ratio], OWN)
            cells = [f"{len(names)}: {', '.join(names)}" if names else "0" for names in found.values()]
            lines.append(f"| {setting.title} | {ratio:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tally_table(rows: Sequence[Row], ratios: Collection[float]) -> str:
    """Where the method stands against each of the others, over all settings and the ratios among these.

    The last columns are of means over the settings, if there are enough; the sizes of a setting are averaged first, as they
    have the same dense models.
    """
    counts: dict[str, Counter[str]] = {}
    differences: dict[str, list[tuple[float, float]]] = {}
    for pairs in _pairs(rows, ratios):
        for name, found in pairs.items():
            counts.setdefault(name, Counter()).update(standing(*pair) for pair in found)
            means = fmean(accuracy.mean for accuracy, _ in found), fmean(excess.mean for _, excess in found)
            differences.setdefault(name, []).append(means)
    titles = ("settings", "sizes", *TITLES.values(), "BiFP − it, accuracy", "BiFP − it, excess", "BiFP is")
    lines = ["| method | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for name, of_method in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0])):
        means = differences[name]
        cells = [str(len(means)), str(of_method.total()), *(str(of_method[where]) for where in TITLES)]
        accuracy, excess = (compare(found, [0.0] * len(found)) for found in zip(*means, strict=True))
        overall = (accuracy, excess, standing(accuracy, excess)) if len(means) >= SETTINGS_FOR_A_MEAN else ("–",) * 3
        lines.append(f"| {name} | " + " | ".join([*cells, *map(str, overall)]) + " |")
    return "\n".join(lines)


def many_text(rows: Sequence[Row], ratios: Collection[float]) -> str:
    """What is left of all differences at these ratios when their number is reckoned with."""
    found = [pair for pairs in _pairs(rows, ratios) for of_method in pairs.values() for pair in of_method]
    # As differences in BiFP's favour: more accuracy, less excess.
    differences = [
        difference for accuracy, excess in found for difference in (accuracy, replace(excess, mean=-excess.mean))
    ]
    rate, family = at_false_discovery_rate(differences), at_family_wise_error(differences)
    return (
        f"These are {rate.tests} paired differences, in accuracy and in excess. At a false discovery rate of {LEVEL:.0%} "
        f"(Benjamini and Hochberg, p of Student's t) {rate.favourable + rate.adverse} are told from zero: "
        f"{rate.favourable} in favour of BiFP, {rate.adverse} against it; by Holm's correction, which allows not even one "
        f"false one, {family.favourable} and {family.adverse}."
    )


def _pairs(rows: Sequence[Row], ratios: Collection[float]) -> list[dict[str, list[Pair]]]:
    """Setting by setting the differences to each method, one for each of these ratios it was run at."""
    out: list[dict[str, list[Pair]]] = []
    for own in by_setting(rows).values():
        pairs: dict[str, list[Pair]] = {}
        for ratio in sorted({row["budget"]["ratio"] for row in own} & set(ratios)):
            methods = by_method([row for row in own if row["budget"]["ratio"] == ratio])
            for name in methods:
                if (pair := against(methods, OWN, name)) is not None:
                    pairs.setdefault(name, []).append(pair)
        out.append(pairs)
    return out


def within_table(rows: Sequence[Row], ratios: Collection[float]) -> str:
    """By method and ratio; nothing if no setting was run at each of these ratios."""
    complete = [own for own in by_setting(rows).values() if set(ratios) <= {row["budget"]["ratio"] for row in own}]
    # The dense model has no ratio: it stands beside every one of them.
    cells = {
        ratio: [by_method([row for row in own if row["budget"]["ratio"] in (ratio, 0)]) for own in complete]
        for ratio in ratios
    }
    lines = ["| method | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |", "|---|" + "---:|" * len(ratios)]
    for method in dict.fromkeys(name for of_ratio in cells.values() for cell in of_ratio for name in cell):
        if all(method in cell for of_ratio in cells.values() for cell in of_ratio):
            found = [[row for cell in of_ratio for row in cell[method]] for of_ratio in cells.values()]
            counts = [f"{sum(map(within, runs))}, {sum(map(met, runs))} of {len(runs)}" for runs in found]
            lines.append(f"| {method} | " + " | ".join(counts) + " |")
    return "\n".join(lines) if complete else ""
