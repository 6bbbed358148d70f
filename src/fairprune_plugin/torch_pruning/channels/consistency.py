"""Is the model still the one the mask was made for? Looked at in training and before channels go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import shown
from ...engine.trained_model import TrainedModel
from ...errors import ConfigError, TrainingStateError, UnsupportedModelError
from ...masks.masked_weights import MaskedWeights
from ..arguments import refuse_sharded
from .grouping import HostGroup
from .python_names import in_python


def check_tied(model: nn.Module, groups: Sequence[HostGroup]) -> None:
    """A parameter of several layers may be shared as long as no channel of it is pruned.

    One layer under several names (``self.head = self.backbone[-1]``) is one layer: it is made smaller in place, wherever it
    is named.

    Raises:
        UnsupportedModelError: If one is: Torch-Pruning would give every layer a smaller parameter of its own.
    """
    names: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():  # each once
        for name, parameter in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
    for group in groups:
        for site in group.channels.sites:
            tied = names.get(id(site.parameter), [])
            if len(tied) > 1:
                raise UnsupportedModelError(
                    f"{' and '.join(tied)} are one shared parameter, and the channels of {group.channels.name} run through "
                    f"it: removing them would untie it silently; add [{_layers(site.parameter, tied, groups)}] to "
                    "ignored_layers, or prune the model without weight tying"
                )


def _layers(parameter: Tensor, tied: Sequence[str], groups: Sequence[HostGroup]) -> str:
    """The layers of a shared parameter, and those that write the channels which run through it, as Python names them."""
    names = list(tied)
    for group in groups:
        if any(site.parameter is parameter for site in group.channels.sites):
            names += [site.name for site in group.channels.carried if site.parameter.dim() > 1]
    layers = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    return ", ".join(map(in_python, layers))


def check_given(given: nn.Module, model: nn.Module, *, attached: bool) -> None:
    """A loop of the user's hands its model over in every step: it must be the one that is trained, or a wrapper around it.

    Args:
        given: By the user.
        model: That is trained.
        attached: Whether that is a sharded copy of the pruner's.

    Raises:
        ConfigError: Otherwise.
    """
    if not isinstance(given, nn.Module):
        raise ConfigError(
            f"expected regularize(model) with the pruner's model, or a wrapper around it, got {shown(given)}"
        )
    if given is not model and all(module is not model for module in given.modules()):
        if attached:
            raise ConfigError(
                "regularize(model) was given another model than the sharded copy that is trained: pass what "
                "pruner.attach(…) was given"
            )
        raise ConfigError(
            "regularize(model) was given another model than the pruner was built for: masks live in the "
            "weights of the model passed to BiFPPruner(model, …)"
        )


def layers_of(model: nn.Module, graph: Any) -> dict[str, nn.Module]:
    """The model's layers that a graph of Torch-Pruning's knows, by name."""
    return {name: module for name, module in model.named_modules() if module in graph.module2node}


def check_parameters(model: nn.Module, groups: Sequence[HostGroup], layers: Mapping[str, nn.Module]) -> None:
    """Masks live in parameter objects: they must still be the model's, and as trainable as they were.

    Args:
        model: That is trained.
        groups: Whose channels are masked.
        layers: From :func:`layers_of`, when the pruner was built. Channels will be removed from these objects, even if the
            parameters have moved into others meanwhile.

    Raises:
        TrainingStateError: Naming what was replaced or frozen since the pruner was built.
        UnsupportedModelError: If parameters were sharded since.
    """
    refuse_sharded(model)
    live = {id(parameter) for parameter in model.parameters()}
    frozen = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
    for group in groups:
        for site in group.channels.sites:
            if id(site.parameter) not in live:
                raise TrainingStateError(
                    f"{site.name} is another parameter now than when the pruner was built (a layer was replaced, or "
                    "load_state_dict(assign=True) was used): build the pruner after changing the model"
                )
        if all(id(site.parameter) in frozen for site in group.channels.masked):
            raise TrainingStateError(
                f"every layer that reads the channels of {group.channels.name} was frozen after the pruner was "
                "built, so nothing can score them: freeze layers first, then build the pruner"
            )
    now = dict(model.named_modules())
    for name, layer in layers.items():
        if now.get(name) is not layer:
            became = f"is now a {type(now[name]).__name__} that it does not know" if name in now else "is gone"
            raise TrainingStateError(
                f"{name or 'the model'} was a {type(layer).__name__} when the pruner was built, and {became}: convert the "
                "model first (SyncBatchNorm, quantization, adapters), then build the pruner"
            )


def check_masked(weights: MaskedWeights, trained: TrainedModel) -> None:
    """Hidden weights are zero unless something else has written to them.

    Args:
        weights: The mask.
        trained: Whose weights they are; if each rank has a part of them, all ranks must call this.

    Raises:
        TrainingStateError: If the pruned model would not be the trained one.
    """
    nonzero = sum(
        bool(parameter.data.index_select(axis.dim, axis.hidden).any())
        for parameter in weights.crossed
        for axis in parameter.masked_axes
    )
    if float(trained.total(torch.tensor(float(nonzero)))) > 0:
        raise TrainingStateError(
            "hidden weights are not zero: the model was loaded with weights that were not trained under this "
            "mask, so the pruned model would not be the trained one; load the pruner's state with the model's "
            "(pruner.state_dict()), train on before step(), or (for averaged weights) call pruner.apply_mask()"
        )
