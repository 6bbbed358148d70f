"""From a score to a smaller model at once: for baselines that do not learn their mask."""

from __future__ import annotations

from torch import Tensor

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.channels.tracing import undisturbed
from fairprune_plugin.torch_pruning.removal.removal import HeadDims, pruning_groups


def best_mask(pruner: BiFPPruner, scores: Tensor) -> Tensor:
    """The mask ``(U,)`` bool of the highest scores within the pruner's budget, by the rule that its own scores follow."""
    return pruner.budget.project(scores, 1.0)


def remove_units(pruner: BiFPPruner, keep: Tensor) -> None:
    """Cuts the units that a mask ``(U,)`` bool hides out of the pruner's model; the pruner is used up by it.

    The parameters are new tensors afterwards: build a new optimizer.

    Raises:
        ConfigError: For a mask of another length, or one that leaves a layer without channels.
    """
    weights = pruner.engine.weights
    if keep.shape != (weights.num_units,):
        raise ConfigError(
            f"expected a mask of shape ({weights.num_units},), one value per unit, got {tuple(keep.shape)}"
        )
    for index, group in enumerate(pruner.host_groups):
        if not bool(keep[weights.of(index)].any()):
            raise ConfigError(
                f"the mask hides all units of {group.channels.name}: keep one at least, as best_mask does"
            )
    pruner.engine.set_mask(keep)
    pruner.engine.norms.release()
    hidden = [~keep[weights.of(index)].cpu() for index in range(len(pruner.host_groups))]
    head_dims = HeadDims(pruner)
    with undisturbed(pruner.model):
        for group in pruning_groups(pruner, pruner.host_groups, hidden):
            group.prune()
        head_dims.update()
