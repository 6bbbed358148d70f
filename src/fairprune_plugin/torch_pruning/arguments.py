"""Torch-Pruning's own arguments: filled with fresh defaults and checked before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch_pruning as tp
from torch import nn

from ..checks import number, one_of, shown, whole_number
from ..errors import ConfigError, UnsupportedModelError
from ..warn import warn_caller
from .argument_types import MAPPINGS, check_types

TARGETS = ("channels", "params", "macs")
OWN = ("constraint", "total_steps", "target", "bilevel", "multipliers", "task_loss", "self_check", "process_group")
_OURS = {"self", "model", "example_inputs", "importance"}


def host_arguments(given: dict[str, Any], *, pruner: str = "BiFPPruner", own: Iterable[str] = OWN) -> dict[str, Any]:
    """Keyword arguments for ``BasePruner``: the user's, plus dictionaries of our own.

    Torch-Pruning's defaults for ``num_heads``, ``in_channel_groups`` and ``out_channel_groups`` are shared
    between all pruners of a process, so each pruner gets copies.

    Raises:
        ConfigError: For an unknown name (the known ones are listed) or a ratio outside its range.
    """
    known = [name for name in inspect.signature(tp.pruner.BasePruner.__init__).parameters if name not in _OURS]
    unknown = sorted(set(given) - set(known))
    if unknown:
        choices = ", ".join(["importance", *own, *known])
        raise ConfigError(f"unknown argument {unknown[0]!r}: {pruner} takes {choices}")
    check_types(given)
    arguments = dict(given)
    for name in ("num_heads", "in_channel_groups", "out_channel_groups", "channel_groups"):
        arguments[name] = dict(given.get(name) or {})
    if isinstance(arguments.get("unwrapped_parameters"), dict):
        arguments["unwrapped_parameters"] = list(arguments["unwrapped_parameters"].items())
    for name in ("pruning_ratio", "ch_sparsity", "head_pruning_ratio"):
        deprecated = name == "ch_sparsity"
        if name in arguments and not (deprecated and arguments[name] is None):
            arguments[name] = check_ratio(name, arguments[name])
    for name in ("pruning_ratio_dict", "ch_sparsity_dict", "head_pruning_ratio_dict"):
        if arguments.get(name):
            every = f"every ratio in {name}"
            arguments[name] = {layer: check_ratio(every, ratio) for layer, ratio in arguments[name].items()}
    if "max_pruning_ratio" in arguments:
        most = arguments["max_pruning_ratio"]
        arguments["max_pruning_ratio"] = number("max_pruning_ratio", most, "in (0, 1]", lambda x: 0 < x <= 1)
    if "iterative_steps" in arguments:
        arguments["iterative_steps"] = whole_number("iterative_steps", arguments["iterative_steps"], 1)
    if arguments.get("round_to") is not None:
        arguments["round_to"] = whole_number("round_to", arguments["round_to"], 1)
    ignored = arguments.get("ignored_layers")
    if isinstance(ignored, Iterator):  # such as model.head.modules(): it can be read once only
        arguments["ignored_layers"] = list(ignored)
    check_ignored(arguments.get("ignored_layers"))
    if arguments.get("prune_num_heads") and arguments.get("prune_head_dims", True):
        raise ConfigError(
            "prune_num_heads and prune_head_dims (on by default) cannot be combined under a mask: pass "
            "prune_head_dims=False to remove whole heads, or prune_num_heads=False to thin every head"
        )
    return arguments


def check_ratio(name: str, ratio: Any) -> float:
    """A pruning ratio is the share that goes; all of it cannot."""
    return number(name, ratio, "in [0, 1), the share that is removed", lambda x: 0 <= x < 1)


def check_ignored(ignored: Any) -> None:
    """Torch-Pruning drops what is neither a module nor a parameter without a word, and then prunes it."""
    if isinstance(ignored, nn.Module | torch.Tensor | str) or not isinstance(ignored, Iterable | None):
        raise ConfigError(f"expected ignored_layers as a list such as [model.fc], got {type(ignored).__name__}")
    for layer in () if ignored is None else ignored:
        if not isinstance(layer, nn.Module | nn.Parameter):
            raise ConfigError(
                f"expected modules of the model in ignored_layers, got {layer!r}: pass the layers themselves, such as "
                "[model.fc] or [m for m in model.modules() if isinstance(m, nn.Linear)]"
            )


def check_layers_are_of(model: nn.Module, given: Mapping[str, Any]) -> None:
    """A layer of a copy of the model is another layer: the host would look for it in vain, without a word.

    Raises:
        ConfigError: Naming the argument.
    """
    own = {id(part) for part in (*model.modules(), *model.parameters())}
    for name in ("ignored_layers", *MAPPINGS):
        for key in given.get(name) or ():
            layers = key if isinstance(key, tuple) else (key,)
            for layer in layers:
                if isinstance(layer, nn.Module | nn.Parameter) and id(layer) not in own:
                    raise ConfigError(
                        f"{name} has a {type(layer).__name__} that is not part of this model (but of a copy of it?): pass "
                        "layers of the model that is to be pruned"
                    )
                kinds = nn.Module | nn.Parameter | type if name == "customized_pruners" else nn.Module | nn.Parameter
                if not isinstance(layer, kinds):
                    raise ConfigError(f"expected layers of the model as the keys of {name}, got {shown(layer)}")


def check_target(target: str) -> None:
    one_of("target", target, TARGETS)


def check_process_group(group: Any) -> None:
    """A process group as ``torch.distributed.new_group`` returns it (also to a process outside of it), or ``None``."""
    if group is None or not dist.is_available():
        return
    if not isinstance(group, dist.ProcessGroup) and group != dist.GroupMember.NON_GROUP_MEMBER:
        raise ConfigError(
            f"expected process_group as None or what torch.distributed.new_group() returns, got {shown(group)}"
        )


def refuse_sharded(model: nn.Module) -> None:
    """Torch-Pruning removes channels from whole parameters: it is a sharded copy that is trained.

    Raises:
        UnsupportedModelError: For parameters that FSDP or tensor parallelism has split, naming one.
    """
    # By name: importing these classes takes seconds, and whoever has such a model has imported them. The parameters of a
    # sharded module are whole ones between its forward and backward pass.
    modules = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if any(base.__name__ in ("FSDPModule", "FullyShardedDataParallel") for base in type(module).__mro__)
    }
    parameters = {
        name: type(parameter).__name__
        for name, parameter in model.named_parameters()
        if type(parameter).__name__ in ("DTensor", "FlatParameter")
    }
    found = {**parameters, **modules}
    if found:
        name, kind = next(iter(found.items()))
        raise UnsupportedModelError(
            f"{name or 'the model'} is sharded over ranks (a {kind}, by FSDP or tensor parallelism), and channels are "
            "removed from whole parameters: build the pruner on the whole model, then shard a copy of it, sharded = "
            "copy.deepcopy(model); fully_shard(sharded); pruner.attach(sharded); or train with DistributedDataParallel"
        )


def check_model(model: Any) -> None:
    """A model that can be trained: a module in full precision.

    Raises:
        ConfigError: Otherwise.
        UnsupportedModelError: For sharded or shared parameters.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"expected an nn.Module to prune, got {type(model).__name__}")
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise ConfigError("expected the bare model, got its data-parallel wrapper: pass model.module")
    refuse_sharded(model)
    half = [n for n, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    if half:
        raise ConfigError(
            f"{half[0]} (and {len(half) - 1} more) is in half precision, in which scores and small weight "
            "updates are lost: call model.float() and train under torch.autocast instead"
        )
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        warn_caller(
            f"{len(frozen)} parameters are frozen (first: {frozen[0]}): they are not trained. Their channels can be "
            "removed, except those that only frozen layers read: nothing would score them, so they stay"
        )
