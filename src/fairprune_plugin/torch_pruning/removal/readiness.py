"""Whether the hidden channels may go now: looked at by ``step()`` before it removes them."""

from __future__ import annotations

from typing import Any

from ...engine.bilevel import BiLevelEngine
from ...errors import TrainingStateError
from ...warn import warn_caller
from ..channels.consistency import check_masked, check_parameters


def check_ready(pruner: Any) -> None:
    """Refuses a removal that comes too early or too late, or that would not give the trained model.

    Raises:
        TrainingStateError: If all rounds are done, the mask has not reached its target yet, or weights are not those that
            were trained under the mask on all ranks.

    Warns:
        FairPruneWarning: If no mask step has taught the scores anything.
    """
    engine: BiLevelEngine = pruner.engine
    if pruner.removing:
        raise broken_off()
    if pruner.current_step >= pruner.iterative_steps:
        raise TrainingStateError(
            f"all {pruner.iterative_steps} pruning rounds are done: the channels are already removed"
        )
    if pruner.total_steps is None or not engine.at_target:
        engine.timetable  # noqa: B018 - says so if the length of the run is unknown
        raise TrainingStateError(
            f"step() came after {engine.phase_step} training steps, but the mask reaches its target at "
            f"step {engine.timetable.ramp_end} of {engine.timetable.steps}: train further "
            "(loss, backward, regularize, optimizer.step), or plan fewer total_steps"
        )
    pruner.lagrangian.checks.settle()
    check_parameters(pruner.model, pruner.host_groups, pruner.layers_at_start)
    check_masked(engine.weights, engine.trained)
    _warn_if_nothing_was_learned(engine)
    engine.trained.refuse_diverged()


def broken_off() -> TrainingStateError:
    """What to say of a model of which nobody knows which channels are there."""
    return TrainingStateError(
        "the removal of channels was broken off: some may be gone, and some not. Build model and pruner anew, and load the "
        "state that they had before step()"
    )


def _warn_if_nothing_was_learned(engine: BiLevelEngine) -> None:
    due = sum(engine.timetable.learns_mask(step) for step in range(engine.phase_step))
    if due and engine.scores.updates == 0 and not bool(engine.weights.keep.all()):
        warn_caller(
            f"none of the {due} mask steps taught the scores anything (their gradients overflowed under the scaler, or "
            "their batches were left out): channels go by their scores before training. Start the scaler lower, "
            "GradScaler(init_scale=…), plan more total_steps, or train in bfloat16"
        )
