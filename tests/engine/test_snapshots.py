"""Which model of a run is kept: the least unfair one beyond the tolerance, then the most accurate, then the latest."""

from __future__ import annotations

import torch
from torch import nn

from fairprune_plugin.engine.snapshots import BestSnapshot, rank
from fairprune_plugin.fairness.evaluation import Evaluation, Verdict

NAN = float("nan")


def evaluation(accuracy: float, *gaps: float) -> Evaluation:
    verdicts = tuple(Verdict("c", "r", gap, 0.01, 0.1, gap <= 0.1, "", gap + 0.01) for gap in gaps)
    return Evaluation("validation", 10, accuracy, (), verdicts, ())


def test_order_of_preference() -> None:
    from_best = [
        evaluation(0.9, 0.02, 0.1),
        evaluation(0.8, 0.0, 0.0),  # how far inside the tolerance does not matter
        evaluation(0.99, 0.12),
        evaluation(0.9, 0.12, 0.01),
        evaluation(0.99, 0.3),
        evaluation(0.99, NAN),
    ]
    assert sorted(from_best, key=rank, reverse=True) == from_best


def test_the_best_state_is_copied_and_brought_back_into_the_live_tensors() -> None:
    model, best = nn.BatchNorm1d(2), BestSnapshot()
    keep = torch.tensor([True, False])
    model.weight.data.fill_(1.0)
    model.running_mean.fill_(1.0)
    assert best.offer(model, keep, evaluation(0.8, 0.05), 1)
    keep[1] = True
    model.weight.data.fill_(2.0)
    model.running_mean.fill_(2.0)
    assert not best.offer(model, keep, evaluation(0.99, 0.2), 2)
    live = model.weight
    best.restore(model)
    assert model.weight is live
    assert model.weight.tolist() == model.running_mean.tolist() == [1.0, 1.0]
    assert best.best is not None
    assert (best.best.step, best.best.keep.tolist()) == (1, [True, False])


def test_ties_go_to_the_later_one() -> None:
    model, best = nn.Linear(1, 1), BestSnapshot()
    for step, offered in enumerate([evaluation(0.8, 0.01), evaluation(0.8, 0.09), evaluation(0.7, 0.0)]):
        best.offer(model, torch.ones(1), offered, step)
    assert best.best is not None
    assert best.best.step == 1
