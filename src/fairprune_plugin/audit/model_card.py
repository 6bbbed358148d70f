"""A section of a Hugging Face model card: metadata in the model-index format, and the report below it.

Format: the ``model-index`` of https://github.com/huggingface/hub-docs/blob/main/modelcard.md; read by
``huggingface_hub.ModelCard``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from . import wording
from .markdown import markdown
from .measures import Measure
from .report import FairnessAudit, GroupingReport

PRINTABLE = str.maketrans({chr(code): " " for code in (*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF)})


def model_card(
    report: FairnessAudit,
    *,
    task_type: str = "other",
    dataset_name: str = "",
    dataset_type: str = "",
    model_name: str = "",
) -> str:
    """Front matter and a Markdown section, ready to be a ``README.md`` or to be merged into one.

    Args:
        report: What was found.
        task_type: A task of the Hugging Face Hub, such as ``"image-classification"``.
        dataset_name: Shown on the Hub; default the split's name.
        dataset_type: Id of the dataset on the Hub; default the name.
        model_name: On the Hub; default the audited model's name.
    """
    front = _yaml(metadata(report, task_type, dataset_name, dataset_type, model_name))
    return f"---\n{front}---\n\n{markdown(report)}"


def metadata(
    report: FairnessAudit, task_type: str, dataset_name: str, dataset_type: str, model_name: str
) -> dict[str, Any]:
    """The model index: overall accuracy, the accuracy of the worst group, and every constraint's gap and verdict."""
    metrics = [_metric("accuracy", "Accuracy", report.measure("accuracy").value)]
    for grouping in _distinct(report.groupings):
        known = _known(grouping, "accuracy")
        if known:
            worst = min(known, key=lambda m: m.value)
            about = f" by {grouping.attribute}" if grouping.attribute else ""
            metrics.append(_metric("accuracy", f"Worst-group accuracy{about} ({worst.group})", worst.value))
    for verdict in report.verdicts:
        if not math.isnan(verdict.gap):
            rate = wording.compared_title(verdict, verdict.rate, report)
            name = (
                f"{wording.verdict_title(verdict)}: gap in {rate} (tolerance {verdict.tolerance:g}: {verdict.status})"
            )
            metrics.append(_metric(f"{verdict.constraint}_gap", name, verdict.gap))
    name = dataset_name or report.split
    result = {
        "task": {"type": task_type},
        "dataset": {"name": name, "type": dataset_type or name, "split": report.split},
        "metrics": metrics,
    }
    return {
        "tags": ["fairness", "pruning"],
        "model-index": [{"name": model_name or report.model_name, "results": [result]}],
    }


def _known(grouping: GroupingReport, name: str) -> list[Measure]:
    """One overall quantity of the groups, where it is defined."""
    return [
        m
        for m in grouping.measures
        if m.key == (name, None, None) and m.group in grouping.groups and not math.isnan(m.value)
    ]


def _distinct(groupings: Sequence[GroupingReport]) -> list[GroupingReport]:
    """The groupings without those of the same people under other names; the one with the most telling names is kept.

    The same people: as many, with the same mean loss to the last digit, in every group.
    """
    found: dict[frozenset[tuple[int, float]], GroupingReport] = {}
    for grouping in groupings:
        people = frozenset((m.samples, m.value) for m in _known(grouping, "loss"))
        if people not in found or _telling(grouping) > _telling(found[people]):
            found[people] = grouping
    return list(found.values())


def _telling(grouping: GroupingReport) -> tuple[bool, bool]:
    return not all(name.isdigit() for name in grouping.groups), bool(grouping.attribute)


def _metric(kind: str, name: str, value: float) -> dict[str, Any]:
    return {"type": kind, "name": name, "value": round(value, 6)}


def _yaml(value: Any, indent: int = 0) -> str:
    """Block YAML of nested mappings, lists, numbers and texts (always quoted, so that any name is safe)."""
    pad = " " * indent
    if isinstance(value, dict):
        return "".join(
            f"{pad}{key}:\n{_yaml(item, indent + 2)}"
            if isinstance(item, dict | list)
            else f"{pad}{key}: {_scalar(item)}\n"
            for key, item in value.items()
        )
    lines = []
    for item in value:
        nested = _yaml(item, indent + 2) if isinstance(item, dict | list) else f"{pad}  {_scalar(item)}\n"
        lines.append(f"{pad}- {nested[indent + 2 :]}")
    return "".join(lines)


def _scalar(value: Any) -> str:
    return json.dumps(value.translate(PRINTABLE), ensure_ascii=False) if isinstance(value, str) else repr(value)
