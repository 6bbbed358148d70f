"""What the trials of an experiment reported, joined with what the tuner believes it has asked for."""

from __future__ import annotations

import json
from typing import Any

from .settings import Settings

COLUMNS = ("default", "accuracy", "gap", "feasible", "test_accuracy", "test_gap", "params")


def read_results(experiment: Any) -> list[dict[str, Any]]:
    """One row per trial, the best first.

    ``parameters`` are those that the trial says it has used: with several trials at a time NNI 3.0 can hand two of
    them each other's. ``mixed_up`` says that the tuner was told the result of other parameters than it asked for.
    """
    metrics = experiment.get_job_metrics()
    rows = []
    for job in experiment.list_trial_jobs():
        reported = metrics.get(job.trialJobId, [])
        final = [item.data for item in reported if item.type == "FINAL"]
        result = _plain(final[-1]) if final else {}
        asked = job.hyperParameters[0].parameters if job.hyperParameters else {}
        used = result.get("parameters", {})
        rows.append(
            {
                "trial": job.trialJobId,
                "status": job.status,
                **result,
                "intermediate": [_plain(item.data) for item in reported if item.type == "PERIODICAL"],
                "mixed_up": bool(used) and any(used.get(key) != value for key, value in asked.items()),
            }
        )
    return sorted(rows, key=lambda row: row.get("default", -2.0), reverse=True)


def _plain(data: Any) -> Any:
    """NNI's REST interface gives a metric as JSON text, sometimes of JSON text."""
    while isinstance(data, str):
        data = json.loads(data)
    return data


def table(rows: list[dict[str, Any]]) -> str:
    """The results for a terminal."""
    head = ["trial", "pruner", "sparsity", *COLUMNS]
    cells = [head]
    for row in rows:
        used = row.get("parameters", {})
        pruner = Settings.merge(used).name if used else row["status"]
        cells.append(
            [row["trial"], pruner, *(_cell(value) for value in (used.get("sparsity"), *map(row.get, COLUMNS)))]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
