"""Scores before the first mask step: the group magnitude, or an importance criterion of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..masks.masked_weights import MaskedWeights
from ..masks.saliency import group_magnitude
from .channels.grouping import HostGroup

Importance = Callable[[Any], Tensor | None]


def initial_scores(
    weights: MaskedWeights, groups: Sequence[HostGroup], importance: Importance | None, graph: Any
) -> Tensor:
    """Scores of all units, ``(U,)`` float32.

    Args:
        weights: The mask.
        groups: Its groups.
        importance: Torch-Pruning's, ``group → (C,) scores`` of which each unit gets the mean; ``None``, or ``None`` for a
            group: the group magnitude.
        graph: The host's dependency graph.

    Raises:
        ConfigError: For values of an importance that are no finite scores of the group's channels.
    """
    scores = group_magnitude(weights)
    if importance is None:
        return scores
    for index, group in enumerate(groups):
        full = graph.get_pruning_group(group.root, group.pruning_fn, list(range(len(group.unit_of_root))))
        values = importance(full)
        if values is not None:
            _check_importance(values, len(group.unit_of_root), group.channels.name)
            mean = torch.zeros(group.channels.num_units, dtype=torch.float32).index_add_(
                0, group.unit_of_root, values.float().cpu()
            )
            scores[weights.of(index)] = (mean / group.channels.channels_per_unit).to(scores.device)
    return scores


def _check_importance(values: Any, channels: int, name: str) -> None:
    if not isinstance(values, Tensor) or values.shape != (channels,) or not bool(torch.isfinite(values).all()):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ConfigError(
            f"expected the importance of {name} as {channels} finite scores, one per channel, or None, got {got}: return a "
            "1-D tensor"
        )
