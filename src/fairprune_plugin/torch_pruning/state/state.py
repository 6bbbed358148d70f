"""The state of a pruner: written at any moment of training, read back into one that was built alike.

The model's own state is saved and loaded beside it, as torch's users do. Channels that were removed in earlier rounds are
removed again: a round is fully described by the mask it ended with.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...engine.damage import refusing_damage
from ...engine.results.evaluation_state import dense_record_from, dense_record_state
from ...errors import TrainingStateError
from ...masks.masked_weights import MaskedWeights
from ..removal.renewal import in_sequence, unchanged
from ..removal.rounds import timetable_after_removal, timetable_of_round
from .group_state import groups_state, restore_groups
from .state_checks import check_engine, check_model, check_rounds, check_settings, settings_of, shapes_of

FORMAT = "fairprune_plugin BiFPPruner 1"


class Resumable:
    """Mixed into :class:`~..pruner.BiFPPruner`."""

    def remember_dense(self: Any, weights: MaskedWeights) -> None:
        """What a state must agree with: the dense model and its groups of channels."""
        self.dense_shapes = shapes_of(self.model)
        self._dense_groups = {group.name: group.num_units for group in weights.groups}
        self.removed_rounds: list[Tensor] = []

    def state_dict(self: Any) -> dict[str, Any]:
        """Everything but the model: scores, mask, weights kept aside, multipliers with their optimizer, counts, the
        position in the schedule, the rounds already removed, and what was measured of the dense model.

        Tensors and plain values only, so that ``torch.load(path, weights_only=True)`` reads it. Take it between two
        training steps, with ``model.state_dict()`` and the optimizer's.
        """
        return {
            "format": FORMAT,
            "settings": settings_of(self),
            "shapes": dict(self.dense_shapes),
            "groups": [groups_state(constraint.group_spec) for constraint in self.lagrangian.constraints],
            "total_steps": self.total_steps,
            "removed": [keep.cpu() for keep in self.removed_rounds],
            "parameters": [list(parameter.shape) for parameter in self.model.parameters()],
            "engine": self.engine.state_dict(),
            "dense": dense_record_state(self.dense_record),
        }

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles: of a graph that is tied to the model's own parameters there are none."""
        raise TrainingStateError(
            "a pruner cannot be copied or pickled: build another one on a copy of the dense model and load "
            "pruner.state_dict() into it; save_pruned() keeps a pruned model"
        )

    def load_state_dict(self: Any, state: Any) -> None:
        """Continues where :meth:`state_dict` was taken.

        Build the dense model, its optimizer and the pruner as they were built then. Load the pruner's state first: it
        removes the channels of earlier rounds again. If there were any, ``optimizer = pruner.rebuild_optimizer(optimizer)``
        next. Then load the states of model and optimizer. A pruner in training may go back to an earlier state of its own.

        Raises:
            ConfigError: For the state of another model or of other settings, which are named; nothing is changed.
            TrainingStateError: For something that is no pruner's state, or one that this pruner is past because it has
                removed other channels; nothing is changed.
        """
        self.check_state(state)
        if self._sharded is not None and len(state["removed"]) > len(self.removed_rounds):
            raise TrainingStateError(
                f"the state is of a run that has removed channels ({len(state['removed'])} rounds): load it before "
                "attach(), and then shard a copy of the smaller model"
            )
        restore_groups(self.lagrangian, state["groups"])
        total_steps = state["total_steps"]
        if self.total_steps is None and total_steps is not None:
            self.total_steps = total_steps
            self.engine.timetable = timetable_of_round(self, total_steps)
            self.lagrangian.plan(total_steps)
        self._remove_again(state["removed"][len(self.removed_rounds) :])
        if not state["engine"]["lagrangian"]["trackers"]:  # taken before the first batch: the task was unknown
            self.lagrangian.trackers = []
        device = self.engine.weights.keep.device
        self.engine.load_state_dict(tree_map_only(Tensor, lambda value: value.to(device), state["engine"]))
        if self.current_step >= self.iterative_steps:
            self.engine.timetable = timetable_after_removal(self)  # how many steps there were before is known only now
        self.dense_record = dense_record_from(state["dense"], self.lagrangian.trackers)
        self._optimizer_steps.forget()

    def _remove_again(self: Any, rounds: list[Tensor]) -> None:
        if not rounds:
            return
        renewed = unchanged(self.model)
        for keep in rounds:
            self.engine.set_mask(keep)
            self.current_step += 1
            for group in self._remove():
                group.prune()
            renewed = in_sequence(renewed, self._renewed)
        self._renewed = renewed

    def check_state(self: Any, state: Any) -> None:
        """Raises what :meth:`load_state_dict` would, and changes nothing."""
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            what = state.get("format") if isinstance(state, dict) else type(state).__name__
            raise TrainingStateError(
                f"expected the state of a pruner, from pruner.state_dict() ({FORMAT!r}), got {what!r}: load what "
                "state_dict() returned"
            )
        with refusing_damage("pruner"):
            check_model(state["shapes"], self.dense_shapes)
            check_settings(state, self)
            check_rounds(state, self)
            check_engine(state, self)
            if self.total_steps is None and state["total_steps"] is not None:
                timetable_of_round(self, state["total_steps"])  # refuses what is too short
