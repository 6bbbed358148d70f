"""Is a saved state one of this pruner? Looked at before anything is changed: model, settings, rounds of removal, sizes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.results.evaluation_state import dense_record_from
from ...engine.scores import MaskScores
from ...errors import ConfigError, TrainingStateError
from ...fairness.lagrangian import Lagrangian
from .group_state import groups_from, restore_groups

ENGINE_KEYS = ("step_index", "phase_step", "passes", "keep", "held", "scores", "lagrangian", "buffers")


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


def check_model(saved: dict[str, list[int]], own: dict[str, list[int]]) -> None:
    """Refuses, with a ``ConfigError``, the state of another dense model; shapes as :func:`shapes_of` gives them."""
    difference = first_difference(saved, own)
    if difference:
        raise ConfigError(
            f"the state is of another model: {difference}; load it into a pruner of the same dense model (one that was "
            "built on a model already pruned knows nothing of what was removed)"
        )


def settings_of(pruner: Any) -> dict[str, Any]:
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
        "ratios of rounds": [float(ratio) for ratio in pruner.per_step_pruning_ratio],
        "ratios of heads": [float(ratio) for ratio in pruner.per_step_head_pruning_ratio],
        "ratios of the heads of layers": {
            pruner.DG._module2name[layer]: [float(ratio) for ratio in ratios]
            for layer, ratios in pruner.head_pruning_ratio_dict.items()
        },
        "bilevel": dataclasses.asdict(pruner.config),
        "multipliers": dataclasses.asdict(pruner.lagrangian.config),
        "constraints": constraints,
        "ratios of layers": {pruner.DG._module2name[m]: list(r) for m, r in pruner.pruning_ratio_dict.items()},
        "units of each group of channels": dict(pruner._dense_groups),
    }


def check_settings(state: dict[str, Any], pruner: Any) -> None:
    """Refuses, with a ``ConfigError``, the state of a run with other settings; they are named."""
    own, saved = settings_of(pruner), state["settings"]
    other = [f"{key} was {saved.get(key)!r} and is {own[key]!r}" for key in own if saved.get(key) != own[key]]
    steps = (state["total_steps"], pruner.total_steps)
    if None not in steps and steps[0] != steps[1]:
        other.append(f"total_steps was {steps[0]} and is {steps[1]}")
    if not other:
        for constraint, groups in zip(pruner.lagrangian.constraints, state["groups"], strict=True):
            if constraint.group_spec.known and groups is not None and groups_from(groups) != constraint.group_spec:
                names = ", ".join(groups_from(groups).names)
                other.append(f"{constraint.name} was about {names} and is about {', '.join(constraint.group_names)}")
    if other:
        raise ConfigError(
            f"the state is of a pruner with other settings: {'; '.join(other)}. Build the pruner as it was built then"
        )


def check_rounds(state: dict[str, Any], pruner: Any) -> None:
    """Refuses, with a ``TrainingStateError``, rounds of removal that this pruner cannot go on from."""
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


def check_engine(state: dict[str, Any], pruner: Any) -> None:
    """The sizes and values of what is to be installed; whatever does not fit would fail half way, or later.

    Raises:
        TrainingStateError: Naming what is missing, has the wrong size or a value that cannot be.
    """
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
    impossible = _impossible_values(state)
    if impossible:
        raise TrainingStateError(
            f"the state of the pruner is damaged: {', '.join(impossible)} cannot be that: load an undamaged copy"
        )
    dense_record_from(state["dense"], _tried_lagrangian(state, pruner.lagrangian).trackers)


def _impossible_values(state: dict[str, Any]) -> list[str]:
    """Names of what has the right size and is of another type, out of its range or not finite."""
    engine, total = state["engine"], state["total_steps"]
    scores, trackers = engine["scores"], engine["lagrangian"]["trackers"]
    whole = {
        "total_steps": 1 if total is None else total,
        **{name: engine[name] for name in ("step_index", "phase_step", "passes")},
        "updates of the scores": scores["updates"],
        "number of batches": engine["lagrangian"]["batches"],
        **{f"steps of constraint {i}": tracker["steps"] for i, tracker in enumerate(trackers)},
    }
    numbers = {
        **{f"scores ({name})": value for name, value in scores.items() if name != "updates"},
        **{f"multipliers {i}": tracker["multipliers"]["value"] for i, tracker in enumerate(trackers)},
        **{f"{name} of constraint {i}": v for i, t in enumerate(trackers) for name, v in t["counts"].items()},
    }
    most = {"step_index": total, "phase_step": total}
    wrong = [
        name
        for name, value in whole.items()
        if type(value) is not int or value < 0 or (most.get(name) is not None and value > most[name])
    ]
    wrong += [n for n, v in numbers.items() if not v.is_floating_point() or not bool(torch.isfinite(v).all())]
    if engine["keep"].dtype != torch.bool or not bool(engine["keep"].any()):
        wrong.append("keep")
    return wrong


def _tried_lagrangian(state: dict[str, Any], own: Lagrangian) -> Lagrangian:
    """Multipliers and counts loaded into another one, their sizes compared with fresh ones."""
    saved = state["engine"]["lagrangian"]
    trial = Lagrangian(None, config=own.config)
    trial.constraints = own.constraints
    restore_groups(trial, state["groups"])
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
