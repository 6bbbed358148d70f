"""The findings of the zoo as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD = """# Model zoo

Made by `python model_zoo.py --onnx small --out ../docs/model_zoo.md`, in `benchmarks/`: every model with random weights and
random norm statistics, four samples, CPU. Each is given to `BiFPPruner` with half of the channels (FFN widths, heads) to be
removed, trained for two steps under accuracy parity (each moves weights and mask), and its channels are removed.

- *masked ≠ pruned*: largest difference of the outputs before and after the removal, relative to the largest output.
  *moved*: the same between hiding nothing and the mask; next to a zero here, the first number would say nothing.
- *torch.export*, *ONNX*: the same between the pruned model and its exported program, and onnxruntime.
- *memory*: parameters and buffers, plus the most that a forward pass holds at once. *ms*: median of ten forward passes, one
  thread, on a machine with other work: read as orders of magnitude.
- *build*: seconds of constructing the pruner (self-check included), and of Torch-Pruning's own graph building.
"""

COLUMNS = (
    *("model", "from", "pruned", "groups", "parameters", "MACs", "memory", "ms"),
    *("moved", "masked ≠ pruned", "torch.export", "ONNX", "build, s"),
)


def page(findings: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    pruned = [f for f in findings if f["outcome"] == "pruned"]
    others = [f for f in findings if f["outcome"] != "pruned"]
    parts = [HEAD, f"{len(findings)} models: {len(pruned)} pruned, {len(others)} not.\n", "## Pruned\n"]
    parts.append("| " + " | ".join(COLUMNS) + " |")
    parts.append("|" + "---|" * len(COLUMNS))
    parts += [_row(f) for f in pruned]
    if others:
        parts += ["", "## Refused before training, or failed\n", "| model | from | asked for | outcome | reason |"]
        parts.append("|---|---|---|---|---|")
        parts += [
            f"| {f['name']} | {f['source']} | {f['what']} | {f['outcome']} | {_short(f['reason'])} |" for f in others
        ]
    return "\n".join(parts) + "\n"


def _row(f: dict[str, Any]) -> str:
    cells = [
        f["name"],
        f["source"],
        f["what"],
        f["groups"],
        _change(f["params"], _amount),
        _change(f["macs"], _amount),
        _change(f["memory"], _bytes),
        _change(f["latency"], lambda ms: f"{ms:.1f}"),
        _number(f["moved"]),
        _number(f["masked_pruned"]),
        _number(f["exported"]),
        _number(f["onnx"]),
        f"{f['build_seconds']:.1f} ({f['graph_seconds']:.1f})",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _change(pair: Sequence[float], form: Any) -> str:
    return f"{form(pair[0])} → {form(pair[1])}"


def _amount(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    return f"{value / 2**20:.3g} MiB"


def _number(value: float | str | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0e}" if isinstance(value, float) else _short(value)


def _short(text: str, limit: int = 400) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= limit else line[: limit - 1] + "…"
