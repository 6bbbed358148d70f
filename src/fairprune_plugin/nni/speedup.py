"""From NNI's masks to a smaller model: through Torch-Pruning, or through NNI's ``ModelSpeedup`` on an fx graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, UnsupportedModelError
from ..torch_pruning.channels.grouping import HostGroup
from ..torch_pruning.channels.tracing import undisturbed
from ..torch_pruning.removal.removal import pruning_groups
from ..warn import warn_caller
from .graph import LAYERS, ChannelGraph, check_input, check_unwrapped, outputs, producers

TORCH_PRUNING = "torch_pruning"
NNI = "nni"
METHODS = (TORCH_PRUNING, NNI)
TOLERANCE = 1e-4  # relative to the largest output; exact masks agree to 1e-6

Masks = Mapping[str, Mapping[str, Tensor | None]]


def speedup(model: nn.Module, masks: Masks, dummy_input: Any, *, method: str = TORCH_PRUNING) -> nn.Module:
    """Makes a masked model physically smaller, in place, and returns it.

    Output channels whose rows are all masked go. Other masks (single weights, N:M, input channels) stay as zeros
    in the weights: there is nothing dense to cut out.

    Args:
        model: Unwrapped (``pruner.unwrap_model()``).
        masks: From ``pruner.compress()`` of any pruner.
        dummy_input: A tensor, a tuple of arguments or a dict of keywords.
        method: ``"torch_pruning"``, or ``"nni"`` for ``ModelSpeedup`` (its default tracing crashes on current
            torch; it is given an fx graph).

    Returns:
        The same model, smaller. Its parameters are new tensors: make a new optimizer.

    Raises:
        ConfigError: If the model is still wrapped or does not run on the dummy input, the masks do not fit it, hide
            a whole layer, or differ between layers that share channels; the message names them. The model is
            untouched then.
        UnsupportedModelError: If the model cannot be traced, or NNI did not remove what the masks hide.
    """
    check_unwrapped(model, "speedup")
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    _check_masks(model, masks)
    with undisturbed(model):
        check_input(model, dummy_input)
    hidden = hidden_rows(model, masks)
    _check_something_stays(hidden)
    removal = _removal(model, dummy_input, hidden, needed=method == TORCH_PRUNING) if hidden else None
    _apply(model, masks)
    masked = outputs(model, dummy_input)
    if not hidden:
        warn_caller(
            "no output channel is masked entirely: weights are zeroed as the masks say and the model keeps its size"
        )
        return model
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if method == NNI:
        _nni_speedup(model, masks, dummy_input, hidden)
    elif removal is not None:
        graph, units = removal
        for group in pruning_groups(graph.host, graph.groups, units):
            group.prune()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    _compare(masked, outputs(model, dummy_input))
    return model


def hidden_rows(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    """Layers whose weight is masked by whole rows, some of them hidden: name → ``(C,)`` bool, True where hidden."""
    out = {}
    for name, targets in masks.items():
        mask = targets.get("weight")
        if mask is None or not isinstance(model.get_submodule(name), LAYERS):
            continue
        rows = mask.reshape(mask.shape[0], -1).bool()
        if bool((rows.all(1) | ~rows.any(1)).all()) and not bool(rows.all()):
            out[name] = ~rows.any(1)
    return out


def _check_masks(model: nn.Module, masks: Any) -> None:
    if not isinstance(masks, Mapping) or not all(isinstance(targets, Mapping) for targets in masks.values()):
        raise ConfigError("expected masks as {layer: {target: mask}}, as pruner.compress() returns them")
    known = dict(model.named_modules())
    for name, targets in masks.items():
        if name not in known:
            raise ConfigError(f"the masks name {name!r}, which the model does not have: are they another model's?")
        for key, mask in targets.items():
            target = getattr(known[name], key, None)
            if mask is None or (key.startswith("_") and bool((mask == 1).all())):
                continue
            if not isinstance(target, Tensor) or not _broadcasts(mask, target):
                shape = None if not isinstance(target, Tensor) else tuple(target.shape)
                raise ConfigError(
                    f"the mask of {name}.{key} has shape {tuple(mask.shape)} and the target {shape}: is the model "
                    "already smaller, or are they another model's masks?"
                )


def _broadcasts(mask: Tensor, target: Tensor) -> bool:
    sizes = zip(reversed(mask.shape), reversed(target.shape), strict=False)
    return mask.dim() <= target.dim() and all(a in (1, b) for a, b in sizes)


@torch.no_grad()
def _apply(model: nn.Module, masks: Masks) -> None:
    for name, targets in masks.items():
        for key, mask in targets.items():
            if mask is not None and not key.startswith("_"):
                target = getattr(model.get_submodule(name), key)
                target.mul_(mask.to(target))


def _check_something_stays(hidden: Mapping[str, Tensor]) -> None:
    for name, rows in hidden.items():
        if bool(rows.all()):
            raise ConfigError(
                f"the mask of {name} hides all of its {len(rows)} output channels, so that nothing would be left to compute "
                "what follows: give max_sparse_ratio (such as 0.9) in config_list, without which a global_group_id can "
                "take whole layers"
            )


def _removal(
    model: nn.Module, dummy_input: Any, hidden: Mapping[str, Tensor], *, needed: bool
) -> tuple[ChannelGraph, list[Tensor]] | None:
    """The dependency graph and the hidden units of each of its groups; the masks are checked against it.

    A model that only NNI can trace (``needed=False``) has none: ``ModelSpeedup`` keeps channels in conflict without
    a word, which :func:`_nni_speedup` notices afterwards.
    """
    try:
        graph = ChannelGraph(model, dummy_input, hidden)
    except UnsupportedModelError:
        if needed:
            raise
        return None
    uncovered = graph.uncovered(hidden)
    if uncovered:
        raise ConfigError(
            f"the masks are in conflict with the model's graph: {'; '.join(uncovered)}. Complete the config with "
            "configure_structured(model, dummy_input, config_list) before pruning"
        )
    return graph, [_hidden_units(graph, group, hidden) for group in graph.groups]


def _hidden_units(graph: ChannelGraph, group: HostGroup, hidden: Mapping[str, Tensor]) -> Tensor:
    """Units that the masks of their producers hide, ``(U,)`` bool. A layer in front of a concatenation has some of them."""
    joined = torch.zeros(group.channels.num_units, dtype=torch.bool)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, unit in producers(group).items():
        rows = hidden[name].to(unit.device)
        carried = torch.zeros(group.channels.num_units, dtype=torch.bool, device=unit.device)
        carried[unit[unit >= 0]] = True
        gone = torch.zeros(group.channels.num_units, dtype=torch.bool, device=unit.device)
        gone[unit[rows & (unit >= 0)]] = True
        if bool((gone[unit.clamp_min(0)] & ~rows & (unit >= 0)).any()):
            norms = [graph.names[site.module] for site in group.channels.norms]
            fix = (
                f"{', '.join(norms)} normalises across them, which no mask in NNI's wrappers can correct: put {name} into "
                "exclude_op_names, or prune it with fairprune_plugin.torch_pruning"
                if norms
                else "tied channels, as in a grouped convolution: complete the config with configure_structured(…)"
            )
            raise ConfigError(
                f"the mask of {name} hides some channels of a unit and keeps others (there are "
                f"{group.channels.num_units} units); {fix}"
            )
        for first, (theirs, units) in found.items():
            both = carried & units
            differ = int(((gone ^ theirs) & both).sum())
            if differ:
                raise ConfigError(
                    f"{first} and {name} lose channels together, but their masks hide different ones "
                    f"({int((theirs & both).sum())} and {int((gone & both).sum())}, {differ} differ): give them one "
                    "dependency_group_id, as configure_structured(model, dummy_input, config_list) does"
                )
        found[name] = gone, carried
        joined |= gone.cpu()
    return joined


def _nni_speedup(model: nn.Module, masks: Masks, dummy_input: Any, hidden: Mapping[str, Tensor]) -> None:
    from nni.compression.speedup import ModelSpeedup

    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        traced = torch.fx.symbolic_trace(model)
        full = {
            name: {
                key: None if mask is None else mask.expand(getattr(model.get_submodule(name), key).shape).clone()
                for key, mask in targets.items()
            }
            for name, targets in masks.items()
        }
        ModelSpeedup(model, dummy_input, full, graph_module=traced).speedup_model()
    except (torch.fx.proxy.TraceError, RuntimeError, AssertionError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(
            f"NNI's ModelSpeedup failed ({type(error).__name__}: {error}): use method='torch_pruning', or complete the "
            "config with configure_structured(…) if layers that share channels have different masks"
        ) from error
    finally:
        for name, module in model.named_modules():
            module.training = training.get(name, model.training)
    left = [name for name, rows in hidden.items() if len(model.get_parameter(f"{name}.weight")) > int((~rows).sum())]
    if left:
        raise UnsupportedModelError(
            f"NNI's ModelSpeedup kept hidden channels of {', '.join(left)}: layers that share channels have different "
            "masks; complete the config with configure_structured(model, dummy_input, config_list) before pruning"
        )


def _compare(masked: list[Tensor], small: list[Tensor]) -> None:
    """Says so if the smaller model is not the masked one."""
    for before, after in zip(masked, small, strict=True):
        error = float((before - after).abs().max() / before.abs().max().clamp_min(1e-12))
        if error > TOLERANCE:
            warn_caller(
                f"the smaller model differs from the masked one (by {error:.1e} of the largest output): a masked channel "
                "still feeds a constant to what follows, for example through a batch norm without a mask. Complete the "
                "config with configure_structured(model, dummy_input, config_list), or fine-tune"
            )
            return
