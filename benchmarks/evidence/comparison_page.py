"""The page of a comparison of methods: tables over all settings, then a picture and tables for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .over_settings import OWN, SETTINGS_FOR_A_MEAN, many_text, summary_table, tally_table, within_table
from .pictures import curves, plane
from .records import Row
from .tables import SIZE, by_setting, comparison_table


@dataclass(frozen=True)
class Page:
    """What a page says around its tables.

    Attributes:
        title: Of the page.
        introduction: Below it.
        removed: What the ratio is a share of.
        size: Columns of the size, as :func:`.tables.comparison_table` has them.
        main: Ratios whose results are added up in a table of their own.
        ratios: All ratios a setting may have.
    """

    title: str
    introduction: str
    removed: str = "parameters"
    size: Mapping[str, str] = field(default_factory=lambda: SIZE)
    main: tuple[float, ...] = (0.7, 0.9)
    ratios: tuple[float, ...] = (0.2, 0.5, 0.7, 0.9, 0.95)


OVER_SETTINGS = """\
Method by method, over all settings, at {sizes} removed: in how many of the settings and sizes BiFP is what; and for
methods in at least {enough} settings the mean over the settings of the paired differences (the sizes of a setting averaged
first), with its interval over settings. Settings share images, so that they are not quite independent of each other:
"""
WITHIN = """\
How many runs end with a test gap of at most the tolerance *and* the half width of the gap's own interval, then how many of
at most the tolerance, over the settings that were run at every ratio and the methods that were run on all of these. On small
groups the interval is as wide as the tolerance, so that the dense model (without any pruning) tells what the first number is
worth:
"""


def write(path: Path, rows: Sequence[Row], page: Page) -> None:
    """The page and its pictures, from records alone."""
    parts = [f"# {page.title}\n", page.introduction, summary_table(rows) + "\n"]
    found = {row["budget"]["ratio"] for row in rows if row["method"] != "dense"}
    for ratios in (sorted(found & set(page.main)), sorted(found - set(page.main))):
        if ratios:
            sizes = ", ".join(f"{ratio:.0%}" for ratio in ratios)
            parts += [OVER_SETTINGS.format(sizes=sizes, enough=SETTINGS_FOR_A_MEAN), tally_table(rows, ratios) + "\n"]
            parts.append(many_text(rows, ratios) + "\n")
    if table := within_table(rows, page.ratios):
        parts += [WITHIN, table + "\n"]
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
