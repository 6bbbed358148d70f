"""A ``config_list`` whose masks are a smaller network: dependency groups and batch-norm alignment filled in."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from nni.compression.base.config import select_modules_by_config, trans_legacy_config_list
from torch import nn

from ..errors import ConfigError, UnsupportedModelError
from ..torch_pruning.channels.grouping import HostGroup
from ..torch_pruning.trial.selfcheck import Run, check, grow, randomise_norms
from . import config_list as configs
from .graph import ChannelGraph, check_unwrapped, outputs, producers, unit_of_row

_SELECTORS = ("op_names", "op_types", "op_names_re", "exclude_op_names", "exclude_op_types", "exclude_op_names_re")


class StructuredConfig(list[dict[str, Any]]):
    """A plain ``config_list`` that remembers the dummy input it was traced with, for :class:`~.pruner.BiFPPruner`.

    Attributes:
        dummy_input: As given to :func:`configure_structured`.
        tried: Layers whose masks were tried on copies with that input, or were not because the user said so.
    """

    def __init__(self, entries: list[dict[str, Any]], dummy_input: Any, tried: Iterable[str] = ()) -> None:
        super().__init__(entries)
        self.dummy_input = dummy_input
        self.tried = frozenset(tried)


def configure_structured(
    model: nn.Module, dummy_input: Any, config_list: list[dict[str, Any]], *, self_check: bool = True
) -> StructuredConfig:
    """Completes a config for output channels from Torch-Pruning's dependency graph.

    Layers that can only lose channels together get one ``dependency_group_id``; batch norms get a mask that aligns
    with the layer before them. The result serves every pruner of NNI. (A batch norm behind a concatenation has
    several layers before it, which NNI's ``align`` cannot say: :class:`~.pruner.BiFPPruner` masks what reads it
    instead and stays exact, other pruners do not.)

    Args:
        model: Not wrapped.
        dummy_input: A tensor, a tuple of arguments or a dict of keywords.
        config_list: Selections with sparse goals; entries of other granularities are passed on as they are.
        self_check: Try on copies, with random masks, whether the masked model equals the pruned one.

    Raises:
        ConfigError: If layers that lose channels together are not all selected, have different goals, or are the
            model's output (the message names them), or the model does not run on the dummy input.
        UnsupportedModelError: If a group of channels crosses a layer norm or group norm, whose statistics a mask
            in NNI's wrappers cannot correct, or the self-check fails.
    """
    check_unwrapped(model, "configure_structured")
    configs.check(model, config_list)
    layers = configs.row_layers(model, config_list)
    if not layers:
        raise ConfigError(
            "config_list selects no convolution or linear layer for output channels (granularity 'default' or "
            "'out_channel', with a sparse_ratio): nothing to configure"
        )
    graph = ChannelGraph(model, dummy_input, layers)
    _check_complete(graph, layers)
    group_of = {name: group for group in graph.groups for name in producers(group)}
    if self_check:
        _self_check(graph, dummy_input, layers)
    settings = _settings_by_layer(model, config_list, set(layers))
    entries = _other_entries(model, config_list, set(layers))
    seen: list[HostGroup] = []
    for layer in layers:
        group = group_of[layer]
        _check_goals(layer, group, settings)
        entry = {"op_names": [layer], **settings[layer]}
        if len(producers(group)) > 1:
            entry["dependency_group_id"] = f"channels of {group.channels.name}"
        tied = next(iter(producers(group).values())).numel() // group.channels.num_units
        if tied > 1:
            entry["internal_metric_block"] = tied
        entries.append(entry)
        if group not in seen:
            seen.append(group)
            entries += _norm_entries(model, group, layer, entries)
    return StructuredConfig(entries, dummy_input, layers)


def graph_of(
    model: nn.Module, dummy_input: Any, config_list: list[dict[str, Any]], *, self_check: bool = True
) -> ChannelGraph:
    """The dependency graph for a config whose masks agree with it.

    Args:
        model: Not wrapped.
        dummy_input: As for :func:`configure_structured`.
        config_list: Selects at least one layer for output channels.
        self_check: As for :func:`configure_structured`.

    Raises:
        ConfigError: If layers that lose channels together are not all selected or have no common
            ``dependency_group_id``, or the model does not run on the dummy input.
        UnsupportedModelError: As :func:`configure_structured`.
    """
    layers = configs.row_layers(model, config_list)
    graph = ChannelGraph(model, dummy_input, layers)
    _check_complete(graph, layers)
    settings = _settings_by_layer(model, config_list, set(layers))
    for group in graph.groups:
        ids = {name: _weight_setting(settings[name], "dependency_group_id") for name in producers(group)}
        if len(ids) > 1 and (None in ids.values() or len(set(ids.values())) > 1):
            raise ConfigError(
                f"{' and '.join(ids)} lose channels together, but have no common dependency_group_id "
                f"({', '.join(map(repr, ids.values()))}): give them one, as configure_structured(model, dummy_input, "
                "config_list) does"
            )
    if self_check:
        _self_check(graph, dummy_input, layers)
    return graph


def graph_if_traceable(
    model: nn.Module, config_list: list[dict[str, Any]], dummy_input: Any, evaluator: Any
) -> ChannelGraph | None:
    """The dependency graph of a config, if there is an input to trace the model with and channels to trace.

    Args:
        model: Not wrapped.
        config_list: As the user gave it.
        dummy_input: As the user gave it; ``None``: the evaluator's, as far as the model runs on it.
        evaluator: NNI's.

    Raises:
        ConfigError: As :func:`graph_of`, for an input of the user's.
        UnsupportedModelError: Likewise.
    """
    layers = configs.row_layers(model, config_list)
    if not layers:
        return None
    if dummy_input is not None:
        return graph_of(model, dummy_input, config_list, self_check=not _tried(config_list, dummy_input, layers))
    # Not get_dummy_input(): Lightning's falls back to a batch of the loader, labels and all.
    given = (getattr(evaluator, name, None) for name in ("dummy_input", "_dummy_input"))
    dummy_input = next((value for value in given if value is not None), None)
    if dummy_input is None:
        return None
    try:
        graph = ChannelGraph(model, dummy_input, layers)
        _self_check(graph, dummy_input, layers)
    except (ConfigError, UnsupportedModelError):
        return None  # the evaluator's input may be there for other reasons: rows are masked, as NNI does
    return graph


def _tried(config_list: list[dict[str, Any]], dummy_input: Any, layers: list[str]) -> bool:
    """Whether :func:`configure_structured` has tried these layers' masks with this input."""
    if not isinstance(config_list, StructuredConfig):
        return False
    return config_list.dummy_input is dummy_input and config_list.tried >= set(layers)


def _weight_setting(entry: Mapping[str, Any], key: str) -> Any:
    return {**entry, **entry.get("target_settings", {}).get("weight", {})}.get(key)


def _check_complete(graph: ChannelGraph, layers: list[str]) -> None:
    """All layers that lose channels together are selected, and nothing between them keeps a mask from being exact."""
    uncovered = graph.uncovered(layers)
    if uncovered:
        raise ConfigError(
            f"channels cannot be removed from {'; '.join(uncovered)}: put these layers into exclude_op_names, or "
            "select all layers that share the channels"
        )
    for group in graph.groups:
        if group.channels.norms:
            names = [graph.names[site.module] for site in group.channels.norms]
            raise UnsupportedModelError(
                f"the channels of {', '.join(producers(group))} cross {', '.join(names)}, a layer or group norm, whose "
                "statistics no mask in NNI's wrappers can correct: put these layers into exclude_op_names, or use "
                "fairprune_plugin.torch_pruning, which corrects them"
            )


def _self_check(original: ChannelGraph, dummy_input: Any, layers: list[str]) -> None:
    """Tries on copies whether a channel masked where it is read is a channel whose row is masked."""
    if not original.groups:
        return

    def rebuild() -> tuple[Any, list[HostGroup], Run]:
        try:
            twin, inputs = copy.deepcopy((original.model, dummy_input))
        except Exception as error:  # a layer's own __deepcopy__ may raise anything
            raise UnsupportedModelError(
                f"masks are tried on a copy of the model, and it cannot be copied ({type(error).__name__}: {error}): make "
                "it fit for copy.deepcopy, or use configure_structured(…, self_check=False)"
            ) from error
        randomise_norms(twin, torch.Generator().manual_seed(0))
        grow(parameter for parameter in twin.parameters() if parameter.dim() > 1)
        graph = ChannelGraph(twin, inputs, layers)
        return graph.host, graph.groups, lambda: outputs(twin, dummy_input)

    try:
        check(rebuild)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(str(error).replace("ignored_layers", "exclude_op_names")) from error


def _settings_by_layer(
    model: nn.Module, config_list: list[dict[str, Any]], layers: set[str]
) -> dict[str, dict[str, Any]]:
    """What each layer is asked for, without the selection; the first entry that configures a layer counts, as in NNI."""
    out: dict[str, dict[str, Any]] = {}
    for entry in trans_legacy_config_list(copy.deepcopy(config_list)):
        modules, _, _ = select_modules_by_config(model, entry)
        for name in modules:
            if name in layers:
                out.setdefault(name, {key: value for key, value in entry.items() if key not in _SELECTORS})
    return out


def _other_entries(model: nn.Module, config_list: list[dict[str, Any]], layers: set[str]) -> list[dict[str, Any]]:
    """The selections without the layers that get entries of their own, but for targets that nothing has configured yet."""
    out = []
    first = _settings_by_layer(model, config_list, layers)
    for entry in trans_legacy_config_list(copy.deepcopy(config_list)):
        modules, settings, _ = select_modules_by_config(model, entry)
        rest = [name for name, _ in model.named_modules() if name in modules and name not in layers]
        if rest:
            out.append({"op_names": rest, **settings})
        for name in modules:
            known, named = (set(found.get("target_names") or ()) for found in (first.get(name, {}), entry))
            if known and named - known and not named & known:
                out.append({"op_names": [name], **settings})
    return out


def _check_goals(layer: str, group: HostGroup, settings: Mapping[str, Mapping[str, Any]]) -> None:
    for other in producers(group):
        if settings[other] != settings[layer]:
            raise ConfigError(
                f"{layer} and {other} lose channels together but are configured differently ({settings[layer]} and "
                f"{settings[other]}): give them the same settings"
            )


def _norm_entries(model: nn.Module, group: HostGroup, layer: str, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Alignment of the batch norms whose channels are exactly those of the group, in the group's order."""
    configured = {name for entry in known for name in entry["op_names"]}
    rows = next(units for name, units in producers(group).items() if name == layer)
    align = {"module_name": layer, "target_name": "weight", "dims": [0]}
    out = []
    for site in group.channels.carried:
        name, _, key = site.name.rpartition(".")
        module = model.get_submodule(name)
        if key != "weight" or not isinstance(module, nn.modules.batchnorm._BatchNorm) or name in configured:
            continue
        if module.num_features != len(rows) or bool((unit_of_row(site) != rows).any()):
            continue
        targets = {key: {"align": dict(align)} for key in ("weight", "bias")}
        out.append({"op_names": [name], "target_names": ["weight", "bias"], "target_settings": targets})
    return out
