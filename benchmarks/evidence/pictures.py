"""Pictures of records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from .problems import Setting
from .tables import by_method, values

Row = dict[str, Any]
OWN = "bifp"
# Blue for the method, warm for what knows the constraint, grey for what does not: readable without colour vision.
STYLE = {
    OWN: {"color": "#0b62c4", "linewidth": 2.6, "marker": "o", "zorder": 5},
    "magnitude + constraint": {"color": "#d1650f", "linewidth": 1.8, "marker": "s", "zorder": 4},
    "prune-then-fair": {"color": "#b0227a", "linewidth": 1.6, "marker": "^", "zorder": 3},
    "ceag": {"color": "#7a5c00", "linewidth": 1.4, "marker": "v", "zorder": 3},
    "fair-then-prune": {"color": "#2e7d4f", "linewidth": 1.4, "linestyle": "-.", "marker": "D", "zorder": 3},
    "lottery-then-fair": {"color": "#6b6b6b", "linewidth": 1.4, "linestyle": ":", "marker": "P", "zorder": 3},
    "magnitude": {"color": "#333333", "linewidth": 1.4, "linestyle": "--", "marker": "x", "zorder": 3},
}
OTHER = {"color": "#b8b8b8", "linewidth": 1.0, "marker": ".", "zorder": 1}


def curves(path: Path, rows: Sequence[Row], setting: Setting, removed: str = "parameters") -> None:
    """Test accuracy (left) and gap (right) against the share of parameters (or others) removed, means over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    methods = by_method([row for row in rows if row["method"] != "dense"])
    for axis, field, label in zip(axes, ("accuracy", "gap"), ("test accuracy", "test gap"), strict=True):
        dense = [row for row in rows if row["method"] == "dense"]
        if dense:
            mean = statistics.fmean(values(dense, field))
            axis.axhline(mean, color="#777777", linewidth=1, linestyle=":", label="dense")
        labelled = False
        for method, found in methods.items():
            ratios = sorted({row["budget"]["ratio"] for row in found})
            groups = [[row for row in found if row["budget"]["ratio"] == ratio] for ratio in ratios]
            means = [statistics.fmean(values(group, field)) for group in groups]
            label_of = method if method in STYLE else None if labelled else "other baselines"
            labelled = labelled or method not in STYLE
            axis.plot([100 * r for r in ratios], means, label=label_of, **STYLE.get(method, OTHER))
        shares = sorted({row["budget"]["ratio"] for found in methods.values() for row in found})
        axis.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
        axis.set_xlabel(f"{removed} removed, %")
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    _tolerance(axes[1], setting.tolerance)
    focus(axes[0])
    _legend(figure, axes[0])
    figure.suptitle(setting.title, fontsize=10)
    save(figure, path)


def focus(axis: Any) -> None:
    """Cuts off what lies far below everything else (a collapsed model), as a box plot tells outliers, and says so."""
    values = sorted(float(y) for line in axis.get_lines() for y in line.get_ydata())
    if len(values) < 4:
        return
    low, _, high = statistics.quantiles(values, n=4)
    fence = low - 1.5 * (high - low)
    if values[0] < fence:
        inside = [value for value in values if value >= fence]
        margin = 0.05 * (inside[-1] - inside[0])
        axis.set_ylim(inside[0] - margin, inside[-1] + margin)
        axis.set_title("worse values lie below the frame", fontsize=7, color="#777777", loc="left", pad=2)


def save(figure: Any, path: Path) -> None:
    """Writes a figure, reproducibly, and closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "evidence"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _tolerance(axis: Any, tolerance: float) -> None:
    """A line across the gaps, named beside the frame, where no curve is."""
    axis.axhline(tolerance, color="#117733", linewidth=1.2)
    place = axis.get_yaxis_transform()  # x in shares of the axis, y in data
    axis.text(1.0, tolerance, " tolerance", color="#117733", fontsize=8, va="center", transform=place)


def _legend(figure: Any, axis: Any) -> None:
    """Below both panels, where it hides no point."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def plane(path: Path, rows: Sequence[Row], title: str, *, tolerance: float | None = None) -> None:
    """Test accuracy against test gap: a line through the tolerances of a method, a point for one without."""
    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    names: list[tuple[str, float, float]] = []
    for method, found in by_method(rows).items():
        tolerances = sorted({row["setting"]["tolerance"] for row in found})
        groups = [[row for row in found if row["setting"]["tolerance"] == t] for t in tolerances]
        gaps = [statistics.fmean(values(group, "gap")) for group in groups]
        accuracies = [statistics.fmean(values(group, "accuracy")) for group in groups]
        style = {"marker": "o", **STYLE.get(method, OTHER)}
        axis.plot(gaps, accuracies, label=method if method in STYLE else None, **style)
        if method not in STYLE:
            names.append((method, gaps[-1], accuracies[-1]))
    if tolerance is not None:
        axis.axvline(tolerance, color="#117733", linewidth=1.2)
        axis.text(tolerance, 0.01, " tolerance", color="#117733", fontsize=8, transform=axis.get_xaxis_transform())
    axis.set_xlabel("test gap")
    axis.set_ylabel("test accuracy")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    axis.set_title(title, fontsize=10)
    _write_beside(figure, axis, names)
    save(figure, path)


# Where the name of a point may stand: shift in points, and which end of the name is at the point.
PLACES = [(4, 2, "left"), (4, -8, "left"), (-4, 2, "right"), (-4, -8, "right"), (4, 9, "left"), (4, -15, "left")]


def _write_beside(figure: Any, axis: Any, names: Sequence[tuple[str, float, float]]) -> None:
    """Names of points, each at the first of :data:`PLACES` at which it hides no other."""
    figure.canvas.draw()  # the layout must be settled to know where anything is
    taken: list[Any] = []
    for name, x, y in names:
        for dx, dy, side in PLACES:
            text = axis.annotate(name, (x, y), fontsize=6, xytext=(dx, dy), textcoords="offset points", ha=side)
            box = text.get_window_extent()
            free = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1 and not any(box.overlaps(other) for other in taken)
            if free:
                taken.append(box)
                break
            text.remove()


def ladder(path: Path, rows: Sequence[Row], setting: Setting) -> None:
    """Test accuracy and gap against forward-backward passes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, field, label in zip(axes, ("accuracy", "gap"), ("test accuracy", "test gap"), strict=True):
        for method, found in by_method([row for row in rows if row["method"] != "dense"]).items():
            passes = sorted({row["passes"] for row in found})
            groups = [[row for row in found if row["passes"] == count] for count in passes]
            means = [statistics.fmean(values(group, field)) for group in groups]
            axis.plot(passes, means, label=method, **{"marker": ".", **STYLE.get(method, {"linewidth": 1.2})})
        axis.set_xscale("log")
        rungs = sorted({row["passes"] for row in rows})
        axis.set_xticks(rungs, [str(rung) for rung in rungs])
        axis.minorticks_off()
        axis.set_xlabel("forward-backward passes")
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    _tolerance(axes[1], setting.tolerance)
    focus(axes[0])
    _legend(figure, axes[0])
    figure.suptitle(setting.title, fontsize=10)
    save(figure, path)


def profile(path: Path, lines: dict[str, list[tuple[float, float, float]]], title: str) -> None:
    """Loss and gap along segments between solutions: ``name → (position, loss, gap)`` of every point."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, points in lines.items():
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot([point[0] for point in points], [point[column] for point in points], marker=".", label=name)
    for axis, label in zip(axes, ("test loss", "test gap"), strict=True):
        axis.set_xlabel("from one solution (0) to the other (1)")
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    save(figure, path)
