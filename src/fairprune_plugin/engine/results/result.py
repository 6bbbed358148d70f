"""What a run returns: the smaller model, its fairness before and after, its size, and how it came about."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ...fairness.evaluation import Evaluation


@dataclass(frozen=True)
class Size:
    """Channels (units of the mask), parameters, MACs of the example inputs, forward latency in ms, and peak memory of a
    forward pass in bytes (:func:`~..measure.memory.peak_memory_bytes`; ``None`` where it was not taken)."""

    channels: int
    params: int
    macs: float
    latency_ms: float
    memory_bytes: int | None = None


@dataclass(frozen=True)
class HistoryRow:
    """The run at one evaluation.

    Attributes:
        step: Training steps done.
        progress: Share of the final pruning ratio that was hidden.
        loss: Running mean of the training loss.
        accuracy: On the split that was evaluated.
        gaps: Largest gap of each constraint there.
        multipliers: All λ of each constraint, flattened.
        training_gaps: The same on the recent training batches (running counts).
        feasible: Whether every constraint held by its point estimate.
        at_target: Whether the model had its final size.
        constraints: What the constraints are called, in the order of the other tuples.
    """

    step: int
    progress: float
    loss: float
    accuracy: float
    gaps: tuple[float, ...]
    multipliers: tuple[tuple[float, ...], ...]
    training_gaps: tuple[float, ...]
    feasible: bool
    at_target: bool
    constraints: tuple[str, ...] = ()

    def scalars(self) -> dict[str, float]:
        """Names and finite values for a metrics writer; an undefined gap is left out."""
        out = {
            "validation/accuracy": self.accuracy,
            "validation/feasible": float(self.feasible),
            "train/mean_loss": self.loss,
            "pruned": self.progress,
        }
        for title, gap in zip(self.constraints, self.gaps, strict=True):
            out[f"validation/gap/{title}"] = gap
        return {name: value for name, value in out.items() if math.isfinite(value)}


@dataclass
class FitResult:
    """Result of ``fit``.

    Attributes:
        model: The pruned model (the object that was passed in).
        optimizer: The one that was passed, of the smaller model's parameters now, its state cut to size.
        before: The dense model on the validation split (on the training data if there is none).
        after: The pruned model on the same split.
        dense: Size of the dense model.
        pruned: Size of the pruned one.
        feasible: Whether the returned model satisfies every constraint there by its point estimate; if not, it
            is the nearest one found and ``message`` says so.
        message: One sentence for the user.
        history: One row per evaluation.
        removal: How the host made the model smaller, in plain values: what :func:`~...torch_pruning.save_pruned` needs.
        passes: Forward-backward passes of training, mask steps included.
        evaluation_passes: Forward passes over validation batches.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    before: Evaluation
    after: Evaluation
    dense: Size
    pruned: Size
    feasible: bool
    message: str
    history: list[HistoryRow] = field(default_factory=list)
    passes: int = 0
    evaluation_passes: int = 0
    removal: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model, the optimizer and the record of removal, JSON-safe."""
        return {
            "feasible": self.feasible,
            "message": self.message,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "dense": asdict(self.dense),
            "pruned": asdict(self.pruned),
            "passes": self.passes,
            "evaluation_passes": self.evaluation_passes,
            "history": [asdict(row) for row in self.history],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text; NaN (an undefined gap) becomes null."""
        return json.dumps(_finite(self.to_dict()), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
