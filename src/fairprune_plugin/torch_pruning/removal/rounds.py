"""Rounds of iterative pruning: what each of them trains for, and how the next one begins on a smaller model."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from ...engine.bilevel import BiLevelEngine
from ...engine.timetable import SettledTimetable, Timetable
from ...errors import ConfigError, FairPruneWarning, UnsupportedModelError
from ...masks.masked_weights import MaskedWeights
from ..channels.graph import graph_anew
from ..channels.grouping import host_groups
from ..channels.tracing import frozen_parameters, undisturbed


def timetable_of_round(pruner: Any, total_steps: int) -> Timetable:
    """The plan of the current round (``current_step`` of ``iterative_steps``): rounds share the training steps, and
    Torch-Pruning's scheduler shares out the ratio.

    Args:
        pruner: A :class:`~..pruner.BiFPPruner`.
        total_steps: Training steps of all rounds.

    Raises:
        ConfigError: If the host's scheduler was replaced by one that does not give a ratio for every round, or there are
            too few steps for this round or one after it.
    """
    rounds = pruner.iterative_steps
    # A run may be about some layers or heads only; their ratio rises like the global one would.
    others = [*pruner.pruning_ratio_dict.values(), *pruner.head_pruning_ratio_dict.values()]
    ratio = pruner.pruning_ratio or max([pruner.head_pruning_ratio, *(ratios[-1] for ratios in others)])
    shares = [1.0] * (rounds + 1)
    if ratio > 0:
        ratios = list(pruner.iterative_pruning_ratio_scheduler(ratio, rounds))
        if len(ratios) != rounds + 1:
            raise ConfigError(
                f"expected iterative_pruning_ratio_scheduler({ratio}, {rounds}) to return {rounds + 1} ratios (at the "
                f"start and after each round), got {len(ratios)}"
            )
        shares = [share / ratio for share in ratios]
    done = [round(total_steps * i / rounds) for i in range(rounds + 1)]
    try:  # those of the later rounds too: that one is too short is said before the channels of another are gone
        plans = [
            Timetable(
                pruner.config,
                done[i + 1] - done[i],
                ratio=ratio,
                start=shares[i] if i else 0.0,
                end=shares[i + 1],
            )
            for i in range(pruner.current_step, rounds)
        ]
    except ConfigError as error:
        if rounds == 1:
            raise
        raise ConfigError(
            f"{error} (the {rounds} rounds of iterative_steps share total_steps={total_steps})"
        ) from error
    return plans[0]


def timetable_after_removal(pruner: Any) -> SettledTimetable:
    """The steps that were planned and not taken when the last channels went: they train the weights that are left."""
    engine: BiLevelEngine = pruner.engine
    return SettledTimetable(pruner.config, (pruner.total_steps or 0) - (engine.step_index - engine.phase_step))


def bind_groups(pruner: Any) -> MaskedWeights:
    """Masks, budget and floors over the groups that are there now."""
    weights = MaskedWeights(tuple(group.channels for group in pruner.host_groups))
    pruner.budget.bind(weights)
    return weights


def begin_next_round(pruner: Any, keep: Tensor) -> None:
    """The smaller model is the new dense one of the next round; scores of the channels left carry over.

    Args:
        pruner: Whose hidden channels have just been removed.
        keep: ``(U,)`` bool, the mask that they were removed by.

    Raises:
        UnsupportedModelError: If other channels were removed than those that the mask had hidden.
    """
    engine: BiLevelEngine = pruner.engine
    pruner.frozen_parameters = frozen_parameters(pruner.model)
    scores = engine.scores
    with undisturbed(pruner.model), warnings.catch_warnings():
        warnings.simplefilter("ignore", FairPruneWarning)  # said at construction
        try:
            pruner.host_groups = list(host_groups(pruner))
        except (UnsupportedModelError, IndexError):
            # The host's graph keeps the old sizes of a split whose parts are one layer's and meet again (GLU).
            pruner.DG = graph_anew(pruner)
            pruner.host_groups = list(host_groups(pruner))
        weights = bind_groups(pruner)
    scores.select(keep.nonzero().reshape(-1))
    if len(scores.value()) != weights.num_units:
        raise UnsupportedModelError(
            f"{len(scores.value())} units were kept but the pruned model has {weights.num_units}: either a group "
            "of step(interactive=True) was not pruned (prune each of them; to spare a layer, ignore it from the "
            "start), or the dependency graph changed with the removal (prune in one round, iterative_steps=1)"
        )
    pruner.removed_rounds.append(keep.cpu().clone())
    engine.begin_phase(weights, pruner.budget.project, scores)
    if pruner.current_step >= pruner.iterative_steps:
        engine.timetable = timetable_after_removal(pruner)
    else:
        engine.timetable = timetable_of_round(pruner, pruner.total_steps)
