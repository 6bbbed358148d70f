"""Tables over all settings of a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evidence.problems import SETTINGS
from evidence.sparsity import RATIOS, within_table


def row(name: str, method: str, ratio: float, gap: float) -> dict[str, Any]:
    splits = {"test": {"gap": gap, "half_width": 0.01}}
    setting = asdict(SETTINGS[name])
    return {"setting": setting, "method": method, "budget": {"ratio": ratio}, "seed": 0, "splits": splits}


def test_runs_within_the_tolerance_and_its_interval_are_counted_by_ratio() -> None:
    """Smiling has a tolerance of 0.03, Bags_Under_Eyes of 0.02."""
    rows = [
        row(name, method, ratio, gap)
        for name in ("smiling", "bags")
        for ratio in RATIOS
        for method, gap in (("bifp", 0.02 if ratio < 0.9 else 0.035), ("magnitude", 0.05))
    ]
    rows.append(row("smiling", "bifp", RATIOS[0], 0.06))  # another seed
    rows.append(row("smiling", "dense", 0.0, 0.9))
    rows.append(row("smiling", "lamp", RATIOS[0], 0.0))  # not run everywhere
    rows.append(row("wavy", "bifp", RATIOS[0], 0.9))  # not run at every ratio
    head, _, *lines = within_table(rows).splitlines()
    assert head == "| method | 20% | 50% | 70% | 90% | 95% |"
    assert lines == ["| bifp | 2/3 | 2/2 | 2/2 | 1/2 | 1/2 |", "| magnitude | 0/2 | 0/2 | 0/2 | 0/2 | 0/2 |"]


def test_without_a_setting_at_every_ratio_there_is_no_such_table() -> None:
    assert within_table([row("smiling", "bifp", 0.9, 0.0)]) == ""
