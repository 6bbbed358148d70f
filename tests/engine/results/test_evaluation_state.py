"""Evaluations, snapshots and history rows come back equal."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from fairprune_plugin.engine.measure.evaluate import evaluate
from fairprune_plugin.engine.results.evaluation_state import (
    dense_record_from,
    dense_record_state,
    evaluation_from,
    evaluation_state,
    row_from,
    snapshot_from,
    snapshot_state,
)
from fairprune_plugin.engine.results.result import HistoryRow, Size
from fairprune_plugin.engine.results.snapshots import Snapshot
from fairprune_plugin.fairness.constraints import AccuracyParity, DemographicParity
from fairprune_plugin.fairness.evaluation import Evaluation
from fairprune_plugin.fairness.lagrangian import Lagrangian


def evaluated() -> tuple[Lagrangian, Evaluation]:
    lagrangian = Lagrangian([AccuracyParity(0.1, groups=3), DemographicParity(0.2, groups=3)])
    x, y = torch.randn(40, 4), torch.randint(2, (40,))
    return lagrangian, evaluate(nn.Linear(4, 2), [(x, y, torch.arange(40) % 2)], lagrangian, split="validation")


def same(a: Evaluation, b: Evaluation) -> bool:
    """Equal in everything; a group without samples has NaN rates."""
    counts = all(
        torch.equal(value, other.state_dict()[name])
        for own, other in zip(a.counts, b.counts, strict=True)
        for name, value in own.state_dict().items()
    )
    return (
        counts
        and repr(a.rates) == repr(b.rates)
        and repr(a.verdicts) == repr(b.verdicts)
        and a.to_dict() == b.to_dict()
    )


def test_an_evaluation_comes_back(tmp_path: Path) -> None:
    lagrangian, evaluation = evaluated()
    assert any(math.isnan(item.value) for item in evaluation.rates)
    torch.save(evaluation_state(evaluation), tmp_path / "a.pt")
    back = evaluation_from(torch.load(tmp_path / "a.pt", weights_only=True), lagrangian.trackers)
    assert same(back, evaluation)


def test_an_evaluation_without_constraints_comes_back() -> None:
    batch = (torch.randn(8, 4), torch.randint(2, (8,)))
    evaluation = evaluate(nn.Linear(4, 2), [batch], Lagrangian(None), split="train")
    assert same(evaluation_from(evaluation_state(evaluation), ()), evaluation)


def test_records_snapshots_and_rows_come_back(tmp_path: Path) -> None:
    lagrangian, evaluation = evaluated()
    size = Size(12, 345, 678.5, 0.25, 4096)
    snapshot = Snapshot({"a": torch.arange(3.0)}, torch.tensor([True, False]), evaluation, 17, 0.25, (0.0, 0.5))
    row = HistoryRow(3, 0.5, 0.7, 0.9, (0.1, math.inf), ((0.1, 0.2), ()), (0.3, 0.4), feasible=True, at_target=False)
    state = {
        "dense": dense_record_state((evaluation, size)),
        "snapshot": snapshot_state(snapshot),
        "row": asdict(row),
        "none": (dense_record_state(None), snapshot_state(None)),
    }
    torch.save(state, tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", weights_only=True)
    record = dense_record_from(read["dense"], lagrangian.trackers)
    assert record is not None
    assert same(record[0], evaluation)
    assert record[1] == size
    back = snapshot_from(read["snapshot"], lagrangian.trackers)
    assert back is not None
    assert (back.step, back.training_excess, back.bar) == (17, 0.25, (0.0, 0.5))
    assert torch.equal(back.state["a"], snapshot.state["a"])
    assert torch.equal(back.keep, snapshot.keep)
    assert row_from(read["row"]) == row
    assert dense_record_from(read["none"][0], ()) is None
    assert snapshot_from(read["none"][1], ()) is None
