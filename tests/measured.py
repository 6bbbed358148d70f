"""What a constraint says of a batch, without training: its tracker, its counts and its gaps."""

from __future__ import annotations

import torch
from torch import Tensor

from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.counts import RateCounts
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.tracker import ConstraintTracker

SPLIT = "train"


def counted(
    constraint: Constraint,
    outputs: Outputs,
    groups: Tensor,
    *,
    dense: Outputs | None = None,
    config: MultiplierConfig | None = None,
) -> tuple[ConstraintTracker, RateCounts]:
    """A tracker that knows the dense model's rates, and the counts of a batch."""
    tracker = ConstraintTracker(constraint, outputs.task, config or MultiplierConfig())
    if dense is not None:
        before = tracker.new_counts()
        before.update(dense, groups)
        tracker.dense_rates[SPLIT], tracker.sizes[SPLIT] = before.values(), before.totals
    counts = tracker.new_counts()
    counts.update(outputs, groups)
    return tracker, counts


def gaps(constraint: Constraint, outputs: Outputs, groups: Tensor, *, dense: Outputs | None = None) -> Tensor:
    """The gap of every compared rate, ``(R,)``."""
    tracker, counts = counted(constraint, outputs, groups, dense=dense)
    return tracker.gaps(counts, SPLIT)


def random_outputs(task: Task, samples: int) -> Outputs:
    """Logits and targets of a task, unrelated to each other; in float64."""
    if task.num_labels is not None:
        shape = (samples, task.num_labels)
        return Outputs.parse(torch.randn(shape, dtype=torch.float64), torch.randint(2, shape))
    logits = torch.randn(samples, task.num_classes, dtype=torch.float64)
    return Outputs.parse(logits, torch.randint(task.num_classes, (samples,)))
