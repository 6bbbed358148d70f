"""Rows as a run hands them out."""

from __future__ import annotations

import torch

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.engine.results.metrics import StepRow
from fairprune_plugin.engine.results.result import HistoryRow
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.tracker import ConstraintTracker


def tracker() -> ConstraintTracker:
    """Equal opportunity with one of two positives found in group 0, all of them in group 1: a gap of one half."""
    made = ConstraintTracker(EqualOpportunity(0.1), Task(2, None), MultiplierConfig())
    logits, targets = torch.tensor([1.0, -1.0, 1.0, 1.0]), torch.ones(4, dtype=torch.long)
    made.counts.update(Outputs.parse(logits, targets), torch.tensor([0, 0, 1, 1]))
    return made


def step(number: int, loss: float = 0.5, *trackers: ConstraintTracker) -> StepRow:
    return StepRow(number, mask_step=number % 2 == 0, progress=0.25, loss=torch.tensor(loss), trackers=trackers)


def evaluation(number: int, gap: float = 0.2, *titles: str) -> HistoryRow:
    """One constraint, or one for each title, whose gaps are ``gap``, ``gap + 1``, …"""
    names = titles or ("a by b:c",)
    gaps = tuple(gap + index for index in range(len(names)))
    of_each = ((1.0,),) * len(names)
    return HistoryRow(
        number, 1.0, 0.5, 0.9, gaps, of_each, (0.3,) * len(names), feasible=True, at_target=True, constraints=names
    )
