"""The comparison as a table for the terminal, a JSON file and a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from fairprune_plugin.fairness.verdict import Verdict

from .compare import Comparison, Contender

# Okabe and Ito's palette: told apart with every common colour vision.
COLOURS = {"dense": "#999999", "magnitude + fine-tuning": "#E69F00", "BiFP": "#0072B2"}


def contenders(comparison: Comparison) -> tuple[Contender, ...]:
    """Dense, magnitude, BiFP."""
    return (comparison.dense, comparison.magnitude, comparison.bifp)


def table(comparison: Comparison) -> str:
    """Side by side: accuracy, the rates of every group, gap with its interval, verdict, and sizes."""
    columns = contenders(comparison)
    rows: list[tuple[str, list[str]]] = [("accuracy", [f"{c.test.accuracy:.4f}" for c in columns])]
    shown = {columns[0].test.verdicts[0].rate, "accuracy"}
    for item in columns[0].test.rates:
        if item.rate in shown:
            values = [c.test.rate(item.rate, item.group) for c in columns]
            rows.append((f"  {item.rate} {item.group} (n={item.samples})", [f"{value:.4f}" for value in values]))
    for index, verdict in enumerate(columns[0].test.verdicts):
        verdicts = [c.test.verdicts[index] for c in columns]
        rows.append((f"gap ({verdict.constraint}) ± 95 %", [f"{v.gap:.4f} ± {v.half_width:.4f}" for v in verdicts]))
        rows.append((f"tolerance {verdict.tolerance:g}", [met(v) for v in verdicts]))
    rows.append(("hidden units", [f"{c.size.channels}" for c in columns]))
    rows.append(("parameters", [f"{c.size.params:,}" for c in columns]))
    rows.append(("MACs per sample", [f"{c.size.macs:,.0f}" for c in columns]))
    rows.append(("latency, batch of 256 (ms)", [f"{c.size.latency_ms:.3f}" for c in columns]))
    head = ("test split", [c.name for c in columns])
    width = max(len(label) for label, _ in rows) + 2
    lines = [f"{label:<{width}}" + "".join(f"{cell:>27}" for cell in cells) for label, cells in (head, *rows)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def met(verdict: Verdict) -> str:
    """Whether the tolerance is met: by the point estimate, allowing for the sampling error, or not."""
    if verdict.gap <= verdict.tolerance:
        return "met"
    if verdict.gap <= verdict.tolerance + verdict.half_width:
        return "met within sampling error"
    return "NOT met"


def to_dict(comparison: Comparison, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, JSON-safe."""
    models = {c.name: {"test": c.test.to_dict(), "size": asdict(c.size)} for c in contenders(comparison)}
    return {"settings": settings, "models": models, "fit": json.loads(comparison.fit.to_json())}


def draw(comparison: Comparison, path: Path) -> None:
    """Rates per group with intervals, the gaps against the tolerance, and the course of the BiFP run."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    _rates(axes[0], comparison)
    _gaps(axes[1], comparison)
    _history(axes[2], comparison)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _rates(axis: Any, comparison: Comparison) -> None:
    rate = comparison.dense.test.verdicts[0].rate
    for shift, contender in enumerate(contenders(comparison)):
        items = [item for item in contender.test.rates if item.rate == rate]
        x = [position + 0.25 * (shift - 1) for position in range(len(items))]
        values = [item.value for item in items]
        errors = [
            [max(item.value - item.low, 0) for item in items],
            [max(item.high - item.value, 0) for item in items],
        ]
        axis.bar(x, values, 0.22, color=COLOURS[contender.name], label=contender.name)
        axis.errorbar(x, values, yerr=errors, fmt="none", ecolor="black", capsize=3)
    names = [item.group for item in items]
    crowded = len(names) > 3
    axis.set_xticks(range(len(names)), names, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axis.set_title(f"{rate} per group (test, 95 % intervals)")
    axis.set_ylim(0, 1)
    axis.legend(loc="upper left", fontsize=8)


def _gaps(axis: Any, comparison: Comparison) -> None:
    columns = contenders(comparison)
    verdicts = [c.test.verdicts[0] for c in columns]
    names = [f"{c.name}\naccuracy {c.test.accuracy:.3f}" for c in columns]
    axis.bar(names, [v.gap for v in verdicts], color=[COLOURS[c.name] for c in columns], width=0.55)
    below = [min(v.half_width, v.gap) for v in verdicts]
    above = [v.half_width for v in verdicts]
    axis.errorbar(names, [v.gap for v in verdicts], yerr=[below, above], fmt="none", ecolor="black", capsize=4)
    tolerance = verdicts[0].tolerance
    axis.axhline(tolerance, color="black", linestyle="--", linewidth=1, label=f"tolerance {tolerance:g}")
    axis.legend(fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_title(f"gap, {verdicts[0].constraint} (test, 95 % intervals)")


def _history(axis: Any, comparison: Comparison) -> None:
    history = comparison.fit.history
    steps = [row.step for row in history]
    tolerance = comparison.bifp.test.verdicts[0].tolerance
    axis.plot(steps, [row.gaps[0] for row in history], color="#0072B2", marker="o", markersize=3, label="gap")
    largest = [max(row.multipliers[0]) for row in history]
    axis.plot(steps, largest, color="#D55E00", linestyle=":", label="largest multiplier")
    axis.axhline(tolerance, color="black", linestyle="--", linewidth=1, label="tolerance")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("training step")
    axis.set_ylabel("gap, multiplier")
    done = axis.twinx()
    done.plot(steps, [row.progress for row in history], color="#009E73", label="pruning done (right)")
    done.set_ylim(0, 1.05)
    lines = axis.get_lines() + done.get_lines()
    axis.legend(lines, [line.get_label() for line in lines], fontsize=8, loc="center right")
    axis.set_title("BiFP run (validation)")
