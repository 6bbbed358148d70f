"""The state of a pruner: written at any moment of training, read back into one that was built alike.

The model's own state is saved and loaded beside it, as torch's users do. Channels that were removed in earlier rounds are
removed again: a round is fully described by the mask it ended with.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..engine.damage import refusing_damage
from ..engine.evaluation_state import dense_record_from, dense_record_state
from ..engine.scores import MaskScores
from ..errors import ConfigError, TrainingStateError
from ..fairness.groups import Attribute, Groups
from ..fairness.lagrangian import Lagrangian
from ..masks.masked_weights import MaskedWeights

FORMAT = "fairprune_plugin BiFPPruner 1"
ENGINE_KEYS = ("step_index", "phase_step", "passes", "keep", "held", "scores", "lagrangian", "buffers")


class Resumable:
    """Mixed into :class:`~.pruner.BiFPPruner`."""

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
            "settings": _settings(self),
            "shapes": dict(self.dense_shapes),
            "groups": [_groups_state(constraint.group_spec) for constraint in self.lagrangian.constraints],
            "total_steps": self.total_steps,
            "removed": [keep.cpu() for keep in self.removed_rounds],
            "parameters": [list(parameter.shape) for parameter in self.model.parameters()],
            "engine": self.engine.state_dict(),
            "dense": dense_record_state(self.dense_record),
        }

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
        _restore_groups(self.lagrangian, state["groups"])
        if self.total_steps is None and state["total_steps"] is not None:
            self.total_steps = state["total_steps"]
            self.engine.timetable = self._timetable()
        self._remove_again(state["removed"][len(self.removed_rounds) :])
        if not state["engine"]["lagrangian"]["trackers"]:  # taken before the first batch: the task was unknown
            self.lagrangian.trackers = []
        device = self.engine.weights.keep.device
        self.engine.load_state_dict(tree_map_only(Tensor, lambda value: value.to(device), state["engine"]))
        self.dense_record = dense_record_from(state["dense"], self.lagrangian.trackers)
        self._regularized = False

    def _remove_again(self: Any, rounds: list[Tensor]) -> None:
        if not rounds:
            return
        renewed = {p: (p, [torch.arange(size) for size in p.shape]) for p in self.model.parameters()}
        for keep in rounds:
            self.engine.set_mask(keep)
            self.current_step += 1
            for group in self._remove():
                group.prune()
            step = self._renewed
            renewed = {
                old: (step[now][0], [kept[later] for kept, later in zip(positions, step[now][1], strict=True)])
                for old, (now, positions) in renewed.items()
            }
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
            _check_model(state["shapes"], self.dense_shapes)
            _check_settings(state, self)
            _check_rounds(state, self)
            _check_engine(state, self)


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """Shapes of everything in a model's state."""
    return {name: list(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def first_difference(saved: dict[str, list[int]], own: dict[str, list[int]]) -> str:
    """In words, for messages; empty if there is none."""
    for name in [*own, *(name for name in saved if name not in own)]:
        if saved.get(name) != own.get(name):
            there, here = (str(tuple(s[name])) if name in s else "absent" for s in (saved, own))
            return f"{name} is {there} there and {here} in this model"
    return ""


def _check_model(saved: dict[str, list[int]], own: dict[str, list[int]]) -> None:
    difference = first_difference(saved, own)
    if difference:
        raise ConfigError(
            f"the state is of another model: {difference}; load it into a pruner of the same dense model (one that was "
            "built on a model already pruned knows nothing of what was removed)"
        )


def _settings(pruner: Any) -> dict[str, Any]:
    """What shapes the run, in plain values."""
    constraints = [constraint.to_dict() for constraint in pruner.lagrangian.constraints]
    for constraint in constraints:
        constraint.pop("groups", None)  # compared by themselves: they may be known only later
    return {
        "target": pruner.target,
        "pruning_ratio": pruner.pruning_ratio,
        "max_pruning_ratio": pruner.max_pruning_ratio,
        "global_pruning": pruner.global_pruning,
        "isomorphic": pruner.isomorphic,
        "round_to": pruner.round_to,
        "iterative_steps": pruner.iterative_steps,
        "bilevel": dataclasses.asdict(pruner.config),
        "multipliers": dataclasses.asdict(pruner.lagrangian.config),
        "constraints": constraints,
        "ratios of layers": {pruner.DG._module2name[m]: list(r) for m, r in pruner.pruning_ratio_dict.items()},
        "units of each group of channels": dict(pruner._dense_groups),
    }


def _check_settings(state: dict[str, Any], pruner: Any) -> None:
    own, saved = _settings(pruner), state["settings"]
    other = [f"{key} was {saved.get(key)!r} and is {own[key]!r}" for key in own if saved.get(key) != own[key]]
    steps = (state["total_steps"], pruner.total_steps)
    if None not in steps and steps[0] != steps[1]:
        other.append(f"total_steps was {steps[0]} and is {steps[1]}")
    if not other:
        for constraint, groups in zip(pruner.lagrangian.constraints, state["groups"], strict=True):
            if constraint.group_spec.known and groups is not None and _groups_from(groups) != constraint.group_spec:
                names = ", ".join(_groups_from(groups).names)
                other.append(f"{constraint.name} was about {names} and is about {', '.join(constraint.group_names)}")
    if other:
        raise ConfigError(
            f"the state is of a pruner with other settings: {'; '.join(other)}. Build the pruner as it was built then"
        )


def _check_rounds(state: dict[str, Any], pruner: Any) -> None:
    units = sum(pruner._dense_groups.values())
    for number, keep in enumerate(state["removed"]):
        if keep.dtype != torch.bool or keep.shape != (units,):
            raise TrainingStateError(
                f"the state of the pruner is damaged: expected the mask of round {number + 1} as {units} flags, got "
                f"{keep.dtype} of shape {tuple(keep.shape)}"
            )
        units = int(keep.sum())
    done = pruner.removed_rounds
    if len(state["removed"]) > pruner.iterative_steps:
        raise TrainingStateError(
            f"the state of the pruner is damaged: {len(state['removed'])} rounds of removal out of {pruner.iterative_steps}"
        )
    if len(done) > len(state["removed"]) or any(
        not torch.equal(own.cpu(), keep) for own, keep in zip(done, state["removed"], strict=False)
    ):
        raise TrainingStateError(
            f"this pruner has removed the channels of {len(done)} rounds already, other ones than the state says "
            f"({len(state['removed'])} rounds): build a new pruner on the dense model and load the state into that"
        )


def _check_engine(state: dict[str, Any], pruner: Any) -> None:
    """The sizes of what is to be installed; whatever does not fit would fail half way."""
    engine = state["engine"]
    missing = [key for key in ENGINE_KEYS if key not in engine]
    if missing:
        raise TrainingStateError(f"the state of the pruner is damaged: {', '.join(missing)} missing from it")
    units = int(state["removed"][-1].sum()) if state["removed"] else sum(pruner._dense_groups.values())
    reference = MaskScores(torch.zeros(units), pruner.config).state_dict()
    tensors = {"keep": engine["keep"], **{k: v for k, v in engine["scores"].items() if isinstance(v, Tensor)}}
    wrong = [name for name, value in tensors.items() if value.shape != (units,)]
    wrong += [name for name in reference if name not in engine["scores"]]
    sizes = [math.prod(shape) for shape in state["parameters"]]
    wrong += [f"held weights {i}" for i, h in enumerate(engine["held"]) if h is not None and h.numel() not in sizes]
    if len(state["parameters"]) != len(list(pruner.model.parameters())):
        wrong.append("parameters")
    if len(state["removed"]) == len(pruner.removed_rounds):  # else the weights of that moment are not there yet
        shapes = [entry.parameter.shape for entry in pruner.engine.weights.parameters]
        if len(shapes) != len(engine["held"]):
            wrong.append("number of held weights")
        held = zip(engine["held"], shapes, strict=False)
        wrong += [f"held weights {i}" for i, (h, s) in enumerate(held) if h is not None and h.shape != s]
        buffers = [buffer.shape for buffer in pruner.model.buffers()]
        if [buffer.shape for buffer in engine["buffers"]] != buffers:
            wrong.append("buffers")
    if wrong:
        raise TrainingStateError(f"the state of the pruner is damaged: wrong size of {', '.join(dict.fromkeys(wrong))}")
    dense_record_from(state["dense"], _tried_lagrangian(state, pruner.lagrangian).trackers)


def _tried_lagrangian(state: dict[str, Any], own: Lagrangian) -> Lagrangian:
    """Multipliers and counts loaded into another one, their sizes compared with fresh ones."""
    saved = state["engine"]["lagrangian"]
    trial = Lagrangian(None, config=own.config)
    trial.constraints = own.constraints
    _restore_groups(trial, state["groups"])
    trial.load_state_dict(saved)
    if own.trackers and trial.trackers:
        own.bind(trial.trackers[0].task)
    for tracker, loaded in zip(trial.trackers, saved["trackers"], strict=True):
        fresh = {name: value.shape for name, value in tracker.new_counts().state_dict().items()}
        if (
            any(loaded["counts"][name].shape != shape for name, shape in fresh.items())
            or loaded["multipliers"]["value"].shape != tracker.multipliers.shape
        ):
            raise TrainingStateError(
                f"the state of the pruner is damaged: wrong sizes of counts or multipliers of {tracker.constraint.name}"
            )
    return trial


def _groups_state(groups: Groups) -> dict[str, Any] | None:
    if not groups.known:
        return None
    attributes = [(a.key, list(a.names), None if a.codes is None else list(a.codes)) for a in groups.attributes]
    return {"attributes": attributes, "present": None if groups.present is None else list(groups.present)}


def _groups_from(state: dict[str, Any]) -> Groups:
    attributes = tuple(
        Attribute(key, tuple(names), None if codes is None else tuple(codes))
        for key, names, codes in state["attributes"]
    )
    return Groups(attributes, None if state["present"] is None else tuple(state["present"]))


def _restore_groups(lagrangian: Lagrangian, states: list[dict[str, Any] | None]) -> None:
    """Groups that were discovered from the data are known again."""
    lagrangian.constraints = tuple(
        constraint
        if constraint.group_spec.known or state is None
        else dataclasses.replace(constraint, groups=_groups_from(state))
        for constraint, state in zip(lagrangian.constraints, states, strict=True)
    )
