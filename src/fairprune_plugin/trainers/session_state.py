"""The state of a session: what a trainer's checkpoint holds of it, and how another session goes on from there."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..engine.damage import refusing_damage
from ..engine.results.evaluation_state import row_from, snapshot_from, snapshot_state
from ..errors import ConfigError, TrainingStateError

if TYPE_CHECKING:
    from .session import Session

FORMAT = "fairprune_plugin trainer session 2"
KEYS = ("pruner", "stream", "snapshot", "history", "loss_mean")


def session_state(session: Session) -> dict[str, Any]:
    """Tensors and plain values only."""
    return {
        "format": FORMAT,
        "pruner": session.pruner.state_dict(),
        "stream": None if session.stream is None else session.stream.state_dict(),
        "snapshot": snapshot_state(session.snapshots.best),
        "history": [asdict(row) for row in session.history],
        "loss_mean": session.loss_mean.value,
    }


def has_removed(state: Any) -> bool:
    """Whether channels were gone when a state was taken: then it has to be loaded before the model's weights."""
    pruner = state.get("pruner") if isinstance(state, dict) else None
    return isinstance(pruner, dict) and bool(pruner.get("removed"))


def load_session_state(session: Session, state: Any) -> None:
    """Puts a session where the state was taken.

    Raises:
        TrainingStateError: For something else, or a damaged state.
        ConfigError: For the state of another model, or of other settings.
    """
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingStateError(
            "expected the state of a callback of fairprune_plugin.trainers in the checkpoint, got something else"
        )
    with refusing_damage("callback"):
        missing = [key for key in KEYS if key not in state]
        if missing:
            raise KeyError(", ".join(missing))
    if (state["stream"] is None) != (session.stream is None):
        there, here = ("without" if s is None else "with" for s in (state["stream"], session.stream))
        raise ConfigError(f"the checkpoint was written {there} validation data, and this callback is {here} them")
    session.pruner.load_state_dict(state["pruner"])
    session.snapshots.best = snapshot_from(state["snapshot"], session.pruner.lagrangian.trackers)
    session.history[:] = [row_from(row) for row in state["history"]]
    session.loss_mean.value = state["loss_mean"]
    if session.stream is not None:
        session.stream.load_state_dict(state["stream"], session.pruner.lagrangian)
