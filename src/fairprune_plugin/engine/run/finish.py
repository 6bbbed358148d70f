"""The end of a run of ``fit``: the best snapshot, the removal of its channels, fresh batch-norm statistics, the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...fairness.evaluation import Evaluation
from ..data_parallel import average_batch_norm
from ..measure.evaluate import recalibrate_batch_norm
from ..results.message import message
from ..results.result import FitResult, Size
from ..results.snapshots import bar, rank
from .schedule_free import to_average

if TYPE_CHECKING:
    from .fit import Run


def finish(run: Run, before: Evaluation, dense: Size) -> FitResult:
    """Removes the channels of the best model of a run, and judges what is left.

    Args:
        run: All of whose steps were taken; it runs the bare model again.
        before: Of the dense model.
        dense: Its size.
    """
    host = run.host
    run.trained = host.model
    to_average(run.optimizer, host.engine.weights)
    if run.snapshots.best is not None:
        run.snapshots.restore(host.model)
    if host.rounds_left():
        host.remove_round()
        host.rebuild_optimizer(run.optimizer)
    after = _recalibrated(run, run.evaluation.held_out())
    return FitResult(
        model=host.model,
        optimizer=run.optimizer,
        removal=host.removal_record(),
        before=before,
        after=after,
        dense=dense,
        pruned=host.size(),
        feasible=after.feasible,
        message=message(
            before, after, run.history, chosen=run.snapshots.best is not None, validated=run.validation is not None
        ),
        history=run.history,
        passes=host.engine.passes,
        evaluation_passes=run.evaluation.passes,
    )


def _recalibrated(run: Run, after: Evaluation) -> Evaluation:
    """Fresh batch-norm statistics, kept only if the model is no worse with them."""
    options, model = run.options, run.host.model
    if options.recalibration_batches < 1:
        return after
    buffers = [buffer.clone() for buffer in model.buffers()]
    recalibrate_batch_norm(model, run.train, batches=options.recalibration_batches, forward=options.forward)
    average_batch_norm(model, run.ranks)
    fresh = run.evaluation.held_out()
    rule = run.snapshots.rule(after)
    if rank(fresh, rule) >= bar(after, rule):
        return fresh
    with torch.no_grad():
        for buffer, saved in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(saved)
    return after
