"""Evaluations, sizes and snapshots as plain values and tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...fairness.evaluation import Evaluation, RateOfGroup
from ...fairness.tracker import ConstraintTracker
from ...fairness.verdict import Verdict
from .result import HistoryRow, Size
from .snapshots import Snapshot

DenseRecord = tuple[Evaluation, Size]


def evaluation_state(evaluation: Evaluation) -> dict[str, Any]:
    """All of an evaluation; read back by :func:`evaluation_from`."""
    return {
        "split": evaluation.split,
        "samples": evaluation.samples,
        "accuracy": evaluation.accuracy,
        "rates": [dict(vars(item)) for item in evaluation.rates],
        "verdicts": [dict(vars(verdict)) for verdict in evaluation.verdicts],
        "counts": [counts.state_dict() for counts in evaluation.counts],
    }


def evaluation_from(state: dict[str, Any], trackers: Sequence[ConstraintTracker]) -> Evaluation:
    """The evaluation again.

    Args:
        state: From :func:`evaluation_state`.
        trackers: Of the constraints that were judged; they know what the counts are about.
    """
    counts = tuple(tracker.new_counts() for tracker in trackers) if state["counts"] else ()
    for own, saved in zip(counts, state["counts"], strict=True):
        own.load_state_dict(saved)
    return Evaluation(
        split=state["split"],
        samples=state["samples"],
        accuracy=state["accuracy"],
        rates=tuple(RateOfGroup(**item) for item in state["rates"]),
        verdicts=tuple(Verdict(**item) for item in state["verdicts"]),
        counts=counts,
    )


def dense_record_state(record: DenseRecord | None) -> dict[str, Any] | None:
    """What was measured of the dense model."""
    return None if record is None else {"before": evaluation_state(record[0]), "size": asdict(record[1])}


def dense_record_from(state: dict[str, Any] | None, trackers: Sequence[ConstraintTracker]) -> DenseRecord | None:
    """The record again."""
    return None if state is None else (evaluation_from(state["before"], trackers), Size(**state["size"]))


def snapshot_state(snapshot: Snapshot | None) -> dict[str, Any] | None:
    """A model's state and how it did."""
    if snapshot is None:
        return None
    evaluation = evaluation_state(snapshot.evaluation)
    return {
        "state": snapshot.state,
        "keep": snapshot.keep,
        "evaluation": evaluation,
        "step": snapshot.step,
        "training_excess": snapshot.training_excess,
        "bar": list(snapshot.bar),
    }


def snapshot_from(state: dict[str, Any] | None, trackers: Sequence[ConstraintTracker]) -> Snapshot | None:
    """The snapshot again."""
    if state is None:
        return None
    return Snapshot(
        state["state"],
        state["keep"],
        evaluation_from(state["evaluation"], trackers),
        state["step"],
        state["training_excess"],
        tuple(state["bar"]),
    )


def row_from(state: dict[str, Any]) -> HistoryRow:
    """A row of the history from its ``asdict``."""
    nested = {
        "gaps": tuple(state["gaps"]),
        "training_gaps": tuple(state["training_gaps"]),
        "multipliers": tuple(tuple(values) for values in state["multipliers"]),
        "constraints": tuple(state.get("constraints", ())),
    }
    return HistoryRow(**{**state, **nested})
