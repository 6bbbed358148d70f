"""``build_pruner`` for Torch-Pruning: BiFP and the host's own pruners from one config."""

from __future__ import annotations

import inspect
from typing import Any

import torch_pruning as tp
from torch import nn

from ..checks import one_of
from ..config import PrunerConfig
from ..warn import warn_caller
from .arguments import OWN, host_arguments
from .pruner import BiFPPruner

# Name → (class, its customary importance).
_HOST_PRUNERS: dict[str, tuple[Any, Any]] = {
    "magnitude": (tp.pruner.BasePruner, tp.importance.GroupMagnitudeImportance),
    "group_norm": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance),
    "bn_scale": (tp.pruner.BNScalePruner, tp.importance.BNScaleImportance),
    "growing_reg": (tp.pruner.GrowingRegPruner, tp.importance.GroupMagnitudeImportance),
}
NAMES = ("bifp", *_HOST_PRUNERS)


def build(config: PrunerConfig, model: nn.Module, example_inputs: Any, options: dict[str, Any]) -> Any:
    """See :func:`fairprune_plugin.build_pruner`."""
    one_of("pruner", config.name, NAMES)
    arguments = {"pruning_ratio": config.pruning_ratio, **config.options, **options}
    if config.name == "bifp":
        ours = {
            "constraint": config.constraint,
            "total_steps": config.total_steps,
            "target": config.target,
            "bilevel": config.bilevel,
            "multipliers": config.multipliers,
        }
        return BiFPPruner(model, example_inputs, **{**ours, **arguments})
    return _host_pruner(config, model, example_inputs, arguments)


def _host_pruner(config: PrunerConfig, model: nn.Module, example_inputs: Any, arguments: dict[str, Any]) -> Any:
    cls, importance = _HOST_PRUNERS[config.name]
    ignored = [key for key in ("constraint", "total_steps") if getattr(config, key) is not None]
    if config.target != "channels":
        ignored.append("target")
    ignored += [key for key in OWN if arguments.pop(key, None) is not None and key not in ignored]
    if ignored:
        warn_caller(
            f"pruner {config.name!r} is Torch-Pruning's own and does not know {', '.join(ignored)}: its ratio is a "
            "channel ratio and nothing constrains its fairness"
        )
    own = {"importance": arguments.pop("importance", None) or importance()}
    base = inspect.signature(tp.pruner.BasePruner.__init__).parameters
    special = [key for key in inspect.signature(cls.__init__).parameters if key not in base]
    own.update({key: arguments.pop(key) for key in special if key in arguments})
    # Head pruning options are checked by the host itself; ours restricts them only for masks.
    heads = {key: arguments.pop(key) for key in ("prune_num_heads", "prune_head_dims") if key in arguments}
    checked = host_arguments(arguments, pruner=f"pruner {config.name!r}", own=special)
    return cls(model, example_inputs, **own, **checked, **heads)
