"""One line of a run's history, from an evaluation and the engine as it is."""

from __future__ import annotations

from ...fairness.evaluation import Evaluation
from ..bilevel import BiLevelEngine
from .metrics import constraint_titles, largest_gap
from .result import HistoryRow


def history_row(engine: BiLevelEngine, evaluation: Evaluation, *, loss: float, last_round: bool) -> HistoryRow:
    """The run at one evaluation.

    Args:
        engine: After a training step.
        evaluation: Of the model as it is now.
        loss: Running mean of the training loss.
        last_round: Whether no further round of pruning is to come.
    """
    trackers = engine.lagrangian.trackers
    return HistoryRow(
        step=engine.step_index,
        progress=engine.progress(),
        loss=loss,
        accuracy=evaluation.accuracy,
        gaps=tuple(verdict.gap for verdict in evaluation.verdicts),
        multipliers=tuple(tuple(tracker.multipliers.value.reshape(-1).tolist()) for tracker in trackers),
        training_gaps=tuple(largest_gap(tracker) for tracker in trackers),
        feasible=evaluation.feasible,
        at_target=engine.at_target and last_round,
        constraints=constraint_titles(trackers),
    )
