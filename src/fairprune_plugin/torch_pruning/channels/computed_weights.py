"""Layers whose weights are no parameters but computed in every forward pass: weight norms and other parametrizations, masks
of torch's own pruning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ...errors import UnsupportedModelError
from .python_names import in_python

_SHOWN = 4


def refuse_hooked(model: nn.Module) -> None:
    """Weights that a forward pre-hook computes (the old ``weight_norm`` and ``spectral_norm``, ``torch.nn.utils.prune``) are
    tensors with a history. Torch cannot copy a model with such a layer anywhere, and checking masks or counting MACs takes
    copies.

    Raises:
        UnsupportedModelError: Naming the layers and the calls that make parameters of their weights.
    """
    hooked = {name: cures for name, layer in model.named_modules() if (cures := _hooked(layer))}
    if hooked:
        raise UnsupportedModelError(
            f"hooks compute weights of {_shortly(hooked)} in every forward pass (torch.nn.utils.weight_norm, spectral_norm "
            "or prune), and torch cannot copy a model with such layers, ignored ones included: make parameters of them "
            f"first, {_calls(hooked)}"
        )


def refuse_computed(model: nn.Module, group: str, layers: Iterable[Any]) -> None:
    """A mask zeroes columns of weights and a removal cuts them: what a forward pass computes anew is neither.

    Args:
        model: Whose layers they are; all of its computed weights are named at once.
        group: Name of the layer whose channels shall go.
        layers: That the channels run through; operations and parameters of the graph may be among them.

    Raises:
        UnsupportedModelError: Naming the layers and the calls that make parameters of their weights.
    """
    touched = {id(layer) for layer in layers if isinstance(layer, nn.Module) and _computed(layer)}
    if not touched:
        return
    names = dict(model.named_modules())
    run_through = [name for name, layer in names.items() if id(layer) in touched]
    all_computed = {name: cures for name, layer in names.items() if (cures := _computed(layer))}
    first = {name: all_computed[name] for name in run_through}
    raise UnsupportedModelError(
        f"the channels of {group} run through {_shortly(run_through)}, whose weights are no parameters but computed in "
        f"every forward pass, where no mask can hide and no removal can cut them: {_calls({**first, **all_computed})}; or "
        f"add [{', '.join(map(in_python, dict.fromkeys([group, *run_through])))}] to ignored_layers"
    )


def _hooked(layer: nn.Module) -> dict[str, str]:
    """What hooks compute of a layer, by name, and the function that makes it a parameter."""
    cures = {}
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            cures[hook.name] = "torch.nn.utils.remove_weight_norm"
        elif isinstance(hook, SpectralNorm):
            cures[hook.name] = "torch.nn.utils.remove_spectral_norm"
        elif isinstance(hook, prune.BasePruningMethod):
            cures[hook._tensor_name] = "torch.nn.utils.prune.remove"
    return cures


def _computed(layer: nn.Module) -> dict[str, str]:
    """The same, whoever computes it; no function for what a class of the user's own does."""
    cures = _hooked(layer)
    if parametrize.is_parametrized(layer):
        assert isinstance(layer.parametrizations, nn.ModuleDict)
        cures |= dict.fromkeys(layer.parametrizations, "torch.nn.utils.parametrize.remove_parametrizations")
    for name in ("weight", "bias"):
        value = getattr(layer, name, None)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            cures.setdefault(name, "")
    return cures


def _shortly(names: Iterable[str]) -> str:
    first, others = list(names)[:_SHOWN], len(list(names)) - _SHOWN
    return ", ".join(name or "the model" for name in first) + (f" and {others} more" if others > 0 else "")


def _calls(computed: dict[str, dict[str, str]]) -> str:
    calls = [
        f'{cure}({in_python(layer)}, "{name}")' if cure else f"make {in_python(layer)}.{name} an nn.Parameter"
        for layer, cures in computed.items()
        for name, cure in cures.items()
    ]
    return "; ".join(calls[:_SHOWN]) + (f"; and so for {len(calls) - _SHOWN} more" if len(calls) > _SHOWN else "")
