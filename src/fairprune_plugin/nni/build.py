"""``build_pruner`` for NNI: BiFP and the host's own pruners from one config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from nni.compression import pruning
from torch import nn

from ..config import PrunerConfig
from ..errors import ConfigError
from ..warn import warn_caller
from . import config_list as configs
from .pruner import BiFPPruner
from .structured import configure_structured

_HOST_PRUNERS: dict[str, Any] = {
    "level": pruning.LevelPruner,
    "l1": pruning.L1NormPruner,
    "l2": pruning.L2NormPruner,
    "fpgm": pruning.FPGMPruner,
    "slim": pruning.SlimPruner,
    "taylor": pruning.TaylorPruner,
    "movement": pruning.MovementPruner,
}
NAMES = ("bifp", *_HOST_PRUNERS)
_GOALS = ("sparse_ratio", "sparse_threshold")


def build(config: PrunerConfig, model: nn.Module, example_inputs: Any, options: dict[str, Any]) -> Any:
    """See :func:`fairprune_plugin.build_pruner`.

    ``pruning_ratio`` is the ``sparse_ratio`` of entries of ``config_list`` that give no goal; ``total_steps`` places
    ``warmup_step`` and ``cooldown_begin_step`` by the shares of ``bilevel``, unless these are given. Options that
    the pruner of that name does not know, but another one does, are left out: one experiment searches over names.
    """
    if config.name not in NAMES:
        raise ConfigError(f"unknown pruner {config.name!r}: choose one of {', '.join(NAMES)}")
    if config.target != "channels":
        raise ConfigError(
            f"target={config.target!r}: NNI's sparse_ratio counts channels or weights; a global_group_id shares one "
            "budget of weights among layers"
        )
    arguments = {**config.options, **options}
    if "config_list" not in arguments:
        raise ConfigError("host='nni' needs config_list=[…], NNI's list of what is pruned (op_types, op_names, …)")
    config_list = [_with_goal(entry, config.pruning_ratio) for entry in _entries(arguments.pop("config_list"))]
    if example_inputs is not None and configs.row_layers(model, config_list):
        config_list = configure_structured(model, example_inputs, config_list)
    if config.total_steps is not None:
        end = max(round(config.bilevel.ramp_end * config.total_steps), 2)
        arguments.setdefault("cooldown_begin_step", end)
        arguments.setdefault("warmup_step", round(config.bilevel.warmup * config.total_steps))
    _check_known(arguments)
    if config.name == "bifp":
        ours = {"constraint": config.constraint, "bilevel": config.bilevel, "multipliers": config.multipliers}
        accepted = _accepted(BiFPPruner, arguments)
        if "evaluator" not in accepted:
            raise ConfigError("pruner 'bifp' needs evaluator=…, NNI's object that trains the model")
        return BiFPPruner(model, config_list, **{**ours, **accepted})
    configs.check(model, config_list)
    return _host_pruner(config, model, config_list, arguments)


def _host_pruner(config: PrunerConfig, model: nn.Module, config_list: list[dict[str, Any]], arguments: Any) -> Any:
    cls = _HOST_PRUNERS[config.name]
    if config.constraint is not None:
        warn_caller(f"pruner {config.name!r} is NNI's own: nothing constrains its fairness")
    accepted = _accepted(cls, arguments)
    required = inspect.signature(cls.__init__).parameters.values()
    missing = [
        item.name
        for item in required
        if item.default is item.empty and item.name not in (*accepted, "self", "model", "config_list")
    ]
    if missing:
        raise ConfigError(f"pruner {config.name!r} needs {', '.join(missing)}: pass it to build_pruner")
    for entry in config_list:
        for settings in (entry, *entry.get("target_settings", {}).values()):
            if configs.read_pattern(settings.get("granularity")):
                raise ConfigError(f"pruner {config.name!r} is NNI's own and has no {settings['granularity']!r} (N:M)")
    return cls(model, configs.host_form(config_list), **accepted)


def _entries(config_list: Any) -> list[dict[str, Any]]:
    if not isinstance(config_list, list | tuple) or not all(isinstance(entry, Mapping) for entry in config_list):
        raise ConfigError(f"expected config_list as a list of dicts, got {config_list!r}")
    return [dict(entry) for entry in config_list]


def _with_goal(entry: dict[str, Any], ratio: float) -> dict[str, Any]:
    settings = (entry, *entry.get("target_settings", {}).values())
    if any(key in values for values in settings for key in (*_GOALS, "align", "sparsity", "exclude")):
        return entry
    return {**entry, "sparse_ratio": float(ratio)}


def _accepted(cls: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(cls.__init__).parameters
    return {key: value for key, value in arguments.items() if key in known}


def _check_known(arguments: Mapping[str, Any]) -> None:
    classes = (BiFPPruner, *_HOST_PRUNERS.values())
    known = {name for cls in classes for name in inspect.signature(cls.__init__).parameters} - {"self", "model"}
    known -= {"existed_wrappers", "args", "kwargs"}
    for key in arguments:
        if key not in known:
            raise ConfigError(f"unknown argument {key!r} for host='nni': choose from {', '.join(sorted(known))}")
