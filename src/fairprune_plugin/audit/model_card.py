"""A section of a Hugging Face model card: metadata in the model-index format, and the report below it.

Format: the ``model-index`` of https://github.com/huggingface/hub-docs/blob/main/modelcard.md; read by
``huggingface_hub.ModelCard``.
"""

from __future__ import annotations

import json
import math
from typing import Any

from . import text, wording
from .markdown import markdown
from .report import FairnessAudit

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
    for grouping in report.groupings:
        known = [
            m
            for m in grouping.measures
            if (m.name, m.cls, m.label) == ("accuracy", None, None)
            and m.group in grouping.groups
            and not math.isnan(m.value)
        ]
        if known:
            worst = min(known, key=lambda m: m.value)
            about = f" by {grouping.attribute}" if grouping.attribute else ""
            metrics.append(_metric("accuracy", f"Worst-group accuracy{about} ({worst.group})", worst.value))
    for verdict in report.verdicts:
        if not math.isnan(verdict.gap):
            rate = text.rate_title(verdict.rate, report.class_names, binary=wording.is_binary(report))
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
