"""One number for NNI's tuner: feasible trials first, by accuracy; then the others, by how far they are off."""

from __future__ import annotations

import math

from fairprune_plugin.fairness.evaluation import Evaluation


def objective(evaluation: Evaluation) -> float:
    """Accuracy if the constraint holds, else minus the excess of the gap: any feasible trial beats any other.

    The feasibility rules of Deb (2000, *An efficient constraint handling method for genetic algorithms*) as a scalar,
    to be maximised. A weighted sum would let accuracy buy unfairness, and its weight would be one more
    parameter; here infeasible trials still tell the tuner which way is better.

    Args:
        evaluation: Of the constraint at the *required* tolerance, on validation data.

    Returns:
        In [0, 1] if feasible, else in [-1, 0). A model that predicts the same for everybody, or whose gap is
        undefined because a group is empty, is worth -1: its rates are equal for the wrong reason.
    """
    excess = evaluation.excess
    if evaluation.degenerate or not math.isfinite(excess):
        return -1.0
    if excess > 0:
        return -min(excess, 1.0)
    return evaluation.accuracy


def metric(evaluation: Evaluation) -> dict[str, float | bool | None]:
    """What is reported for an evaluation: ``default`` is what NNI's tuners and assessors read."""
    gaps = [verdict.gap for verdict in evaluation.verdicts]
    gap = max(gaps, default=0.0) if all(map(math.isfinite, gaps)) else None
    return {
        "default": objective(evaluation),
        "accuracy": evaluation.accuracy,
        "gap": gap,
        "feasible": evaluation.feasible and not evaluation.degenerate,
    }
