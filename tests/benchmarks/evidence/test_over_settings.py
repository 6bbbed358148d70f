"""Tables over all settings of a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evidence.over_settings import tally_table, within_table
from evidence.problems import SETTINGS
from evidence.sparsity import RATIOS


def row(name: str, method: str, ratio: float, gap: float, accuracy: float = 0.8, seed: int = 0) -> dict[str, Any]:
    splits = {"test": {"accuracy": accuracy, "gap": gap, "half_width": 0.01}}
    setting = asdict(SETTINGS[name])
    return {"setting": setting, "method": method, "budget": {"ratio": ratio}, "seed": seed, "splits": splits}


def test_runs_within_the_tolerance_and_its_interval_are_counted_by_ratio() -> None:
    """Smiling has a tolerance of 0.03, Bags_Under_Eyes of 0.02."""
    rows = [
        row(name, method, ratio, gap)
        for name in ("smiling", "bags")
        for ratio in RATIOS
        for method, gap in (("bifp", 0.02 if ratio < 0.9 else 0.035), ("magnitude", 0.05))
    ]
    rows.append(row("smiling", "bifp", RATIOS[0], 0.06))  # another seed
    rows += [row("smiling", "dense", 0.0, 0.9), row("bags", "dense", 0.0, 0.02)]
    rows.append(row("smiling", "lamp", RATIOS[0], 0.0))  # not run everywhere
    rows.append(row("wavy", "bifp", RATIOS[0], 0.9))  # not run at every ratio
    head, _, *lines = within_table(rows, RATIOS).splitlines()
    assert head == "| method | 20% | 50% | 70% | 90% | 95% |"
    assert sorted(lines) == [
        "| bifp | 2, 2 of 3 | 2, 2 of 2 | 2, 2 of 2 | 1, 0 of 2 | 1, 0 of 2 |",
        "| dense | 1, 1 of 2 | 1, 1 of 2 | 1, 1 of 2 | 1, 1 of 2 | 1, 1 of 2 |",
        "| magnitude | 0, 0 of 2 | 0, 0 of 2 | 0, 0 of 2 | 0, 0 of 2 | 0, 0 of 2 |",
    ]


def test_without_a_setting_at_every_ratio_there_is_no_such_table() -> None:
    assert within_table([row("smiling", "bifp", 0.9, 0.0)], RATIOS) == ""


def test_a_method_is_compared_over_settings_each_counted_once() -> None:
    """Ahead in four settings by a point, in one by two points or four, which is three on average."""
    rows = [
        row(name, method, ratio, 0.0, accuracy + 0.001 * seed, seed)
        for name, ratio, ours in (
            ("smiling", 0.7, 0.82),
            ("smiling", 0.9, 0.84),
            *((name, 0.9, 0.81) for name in ("bags", "wavy", "blond", "race")),
        )
        for seed in range(3)
        for method, accuracy in (("bifp", ours), ("lamp", 0.8))
    ]
    rows += [row("wavy", "bifp", 0.2, 0.0), row("wavy", "lamp", 0.2, 0.9, 0.9)]  # not among the ratios asked for
    rows += [row("wavy", "snip", 0.9, 0.0, 0.8, seed) for seed in range(3)]  # one setting: no mean over settings
    head, _, *lines = tally_table(rows, (0.7, 0.9)).splitlines()
    assert head.startswith("| method | settings | sizes | ahead | no difference | trades | behind |")
    lamp, snip = lines
    assert lamp == "| lamp | 5 | 6 | 6 | 0 | 0 | 0 | +0.0140 ± 0.0111 * (p 0.062) | +0.0000 ± 0.0000 (p 1) | ahead |"
    assert snip.startswith("| snip | 1 | 1 |")
    assert snip.endswith("| – | – | – |")
