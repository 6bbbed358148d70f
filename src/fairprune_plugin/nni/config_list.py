"""NNI's ``config_list``, read before NNI does: mistakes that it accepts silently or answers with a bare assertion."""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from nni.compression.base.config import default_config_schema, select_modules_by_config, trans_legacy_config_list
from nni.compression.base.setting import PruningSetting
from schema import SchemaError
from torch import nn

from ..errors import ConfigError

UNSTRUCTURED = "unstructured"
_PATTERN = re.compile(r"(\d+):(\d+)")
_WHOLE = {"max_sparse_ratio": 1, "min_sparse_ratio": 0}  # integers that NNI's schema takes for a float
_NAME_KEYS = ("op_names", "exclude_op_names")
_TYPE_KEYS = ("op_types", "exclude_op_types")
_RE_KEYS = ("op_names_re", "exclude_op_names_re")
_SELECTORS = (*_NAME_KEYS, *_TYPE_KEYS, *_RE_KEYS, "target_names", "target_settings")
_SETTINGS = (
    "sparse_ratio",
    "sparse_threshold",
    "max_sparse_ratio",
    "min_sparse_ratio",
    "global_group_id",
    "dependency_group_id",
    "internal_metric_block",
    "granularity",
    "apply_method",
    "align",
)


def read_pattern(granularity: Any) -> tuple[int, int] | None:
    """``(N, M)`` of an ``"N:M"`` granularity (N of M consecutive weights stay), else ``None``.

    Raises:
        ConfigError: Unless 0 < N < M.
    """
    match = _PATTERN.fullmatch(granularity) if isinstance(granularity, str) else None
    if match is None:
        return None
    n, m = int(match[1]), int(match[2])
    if not 0 < n < m:
        raise ConfigError(f"granularity {granularity!r}: expected 'N:M' with 0 < N < M, such as '2:4'")
    return n, m


def host_form(config_list: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The list with our own granularities in NNI's words (one unit per weight), for NNI's schema."""

    def settings(entry: Mapping[str, Any]) -> dict[str, Any]:
        out = dict(entry)
        if out.get("granularity") == UNSTRUCTURED or read_pattern(out.get("granularity")):
            out["granularity"] = [1]
        return out

    form = []
    for entry in config_list:
        out = settings(entry)
        if "target_settings" in out:
            out["target_settings"] = {name: settings(values) for name, values in out["target_settings"].items()}
        form.append(out)
    return form


def validate(config_list: Sequence[Mapping[str, Any]]) -> None:
    """NNI's own schema on the list.

    Raises:
        ConfigError: With the schema's words, for what :func:`check` let through.
    """
    for entry in host_form(config_list):
        try:
            default_config_schema("pruning").validate(entry)
        except SchemaError as error:
            raise ConfigError(f"NNI's schema refuses the config {entry}: {error}") from error


def check(model: nn.Module, config_list: Any) -> None:
    """Refuses a list that would not do what it says.

    Args:
        model: To be pruned, not wrapped.
        config_list: NNI's list of dicts; the form of NNI before 2.5 is understood.

    Raises:
        ConfigError: Naming the entry, what was found and the fix.
    """
    if not isinstance(config_list, list) or not all(isinstance(entry, dict) for entry in config_list):
        raise ConfigError(f"expected config_list as a list of dicts, got {config_list!r}")
    if not config_list:
        raise ConfigError("config_list is empty: nothing would be pruned; name layers by op_types or op_names")
    excluding = [bool(entry.get("exclude")) for entry in config_list]  # NNI before 2.5: an entry that only excludes
    for entry, only_excludes in zip(trans_legacy_config_list(copy.deepcopy(config_list)), excluding, strict=True):
        _check_keys(entry, (*_SELECTORS, *_SETTINGS))
        _check_settings(entry)
        for name in (*entry.get("target_names", ()), *entry.get("target_settings", {})):
            if name.startswith(("_input_", "_output_")):
                raise ConfigError(f"{name!r} is an activation: this pruner masks parameters (weight, bias) only")
        for values in entry.get("target_settings", {}).values():
            _check_keys(values, _SETTINGS)
            _check_settings({**{k: v for k, v in entry.items() if k in _SETTINGS}, **values})
        if not only_excludes:
            _check_selection(model, entry)


def _check_keys(entry: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in entry:
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in config_list{_did_you_mean(key, known)}")


def _check_settings(entry: Mapping[str, Any]) -> None:
    if "sparse_ratio" in entry and "sparse_threshold" in entry:
        raise ConfigError("give sparse_ratio or sparse_threshold, not both")
    for key in ("sparse_ratio", "sparse_threshold", "max_sparse_ratio", "min_sparse_ratio"):
        value = entry.get(key)
        if value is None:
            continue
        if not isinstance(value, float) and not (type(value) is int and value == _WHOLE.get(key)):
            raise ConfigError(f"expected {key} as a float, got {value!r} ({type(value).__name__}): write it as 0.5")
        if key == "sparse_threshold":
            if not 0 <= value < math.inf:  # also refuses NaN, with which nothing would ever be hidden
                raise ConfigError(f"expected a finite sparse_threshold ≥ 0 (times the mean score), got {value}")
        elif not 0 <= value < 1 and not (key == "max_sparse_ratio" and value == 1):
            raise ConfigError(f"expected {key} in [0, 1), the share that goes, got {value}")
    low, high = entry.get("min_sparse_ratio"), entry.get("max_sparse_ratio")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"min_sparse_ratio {low} is above max_sparse_ratio {high}")
    if "sparse_threshold" in entry:
        for key in ("dependency_group_id", "global_group_id"):
            if entry.get(key) is not None:
                raise ConfigError(f"{key} shares one sparse_ratio among layers: it does not go with sparse_threshold")
    _check_granularity(entry)
    if entry.get("apply_method", "mul") != "mul":
        raise ConfigError(
            f"apply_method {entry['apply_method']!r}: BiFP trains under its mask, which multiplies weights ('mul')"
        )


def _check_granularity(entry: Mapping[str, Any]) -> None:
    granularity = entry.get("granularity", "default")
    pattern = read_pattern(granularity)
    if pattern is not None:
        n, m = pattern
        if "sparse_ratio" in entry and abs(entry["sparse_ratio"] - (1 - n / m)) > 1e-6:
            raise ConfigError(
                f"granularity {granularity!r} is a sparse_ratio of {1 - n / m:g}, got {entry['sparse_ratio']}"
            )
        low, high = entry.get("min_sparse_ratio") or 0, entry.get("max_sparse_ratio")
        if low > 1 - n / m + 1e-6 or (high is not None and high < 1 - n / m - 1e-6):
            raise ConfigError(
                f"granularity {granularity!r} is a sparse_ratio of {1 - n / m:g}, which is not between min_sparse_ratio "
                f"{low} and max_sparse_ratio {1 if high is None else high}: leave the bounds out"
            )
        ids = [key for key in ("dependency_group_id", "global_group_id", "sparse_threshold") if entry.get(key)]
        if ids:
            raise ConfigError(f"granularity {granularity!r} fixes how many weights go: it does not go with {ids[0]}")
    elif granularity == "per_channel":
        raise ConfigError(
            "granularity 'per_channel' is NNI's for activations, and this pruner masks parameters: write 'out_channel' or "
            "'in_channel'"
        )
    elif isinstance(granularity, str) and granularity not in ("default", "out_channel", "in_channel", UNSTRUCTURED):
        raise ConfigError(
            f"unknown granularity {granularity!r}: choose 'out_channel' (the default), 'in_channel', 'unstructured', "
            "'N:M' such as '2:4', or a block such as [4, 4]"
        )


def _check_selection(model: nn.Module, entry: Mapping[str, Any]) -> None:
    names = {name: type(module).__name__ for name, module in model.named_modules()}
    for keys, known in ((_NAME_KEYS, set(names)), (_TYPE_KEYS, set(names.values()))):
        for key in keys:
            for name in entry.get(key, ()):
                if name not in known:
                    raise ConfigError(
                        f"{key} lists {name!r}, which the model does not have{_did_you_mean(name, known)}"
                    )
    for key in _RE_KEYS:
        for pattern in entry.get(key, ()):
            if not any(re.match(pattern, name) for name in names):
                raise ConfigError(f"{key} {pattern!r} matches no layer of the model")
    modules, _, _ = select_modules_by_config(model, dict(entry))
    if not modules:
        raise ConfigError(
            f"no layer is left by the selection { ({k: v for k, v in entry.items() if k in _SELECTORS}) }"
        )
    _check_parameters(model, modules)
    for name, module in modules.items():
        if type(module).__name__ not in PruningSetting.registry:
            raise ConfigError(
                f"NNI has no pruning setting for {name} ({type(module).__name__}): leave it out, or call "
                f"PruningSetting.register({type(module).__name__!r}, …) first"
            )
        _check_targets(name, module, entry)


def _check_targets(name: str, module: nn.Module, entry: Mapping[str, Any]) -> None:
    """Every target named must be one that NNI has settings for, or a parameter that the entry itself configures."""
    known = {target for target in PruningSetting.registry[type(module).__name__] if not target.startswith("_")}
    own = {target for target in entry.get("target_settings", {}) if target in dict(module.named_parameters())}
    for key in ("target_names", "target_settings"):
        for target in entry.get(key, ()):
            if target not in known | own:
                raise ConfigError(
                    f"{key} lists {target!r}, which {name} ({type(module).__name__}) does not have"
                    f"{_did_you_mean(target, known | own)}"
                )


def _check_parameters(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, module in modules.items():
        for key, parameter in module.named_parameters(recurse=False):
            shared = owners[id(parameter)]
            if len(shared) > 1:
                raise ConfigError(
                    f"{' and '.join(shared)} are one shared parameter, which NNI's wrappers would untie: leave these "
                    "layers out (exclude_op_names), or give each its own"
                )
            if parameter.dtype in (torch.float16, torch.bfloat16):
                raise ConfigError(
                    f"{name}.{key} is in half precision, in which scores and small updates are lost: call model.float() "
                    "and train under torch.autocast instead"
                )


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f": did you mean {near[0]!r}?" if near else f": choose from {', '.join(sorted(known)[:20])}"


def row_layers(model: nn.Module, config_list: Sequence[Mapping[str, Any]]) -> list[str]:
    """Convolutions and linear layers whose weight loses output channels, by name in the model's order."""
    found = set()
    for entry in trans_legacy_config_list(copy.deepcopy(list(config_list))):
        modules, _, _ = select_modules_by_config(model, entry)
        settings = {**entry, **entry.get("target_settings", {}).get("weight", {})}
        rows = settings.get("granularity", "default") in ("default", "out_channel")
        active = settings.get("sparse_ratio") is not None or settings.get("sparse_threshold") is not None
        if rows and active and "weight" in entry.get("target_names", ["weight"]):
            found |= {name for name, m in modules.items() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)}
    return [name for name, _ in model.named_modules() if name in found]
