"""The pruned model in a file without code: its weights, and how the original class becomes as small as it is.

One safetensors file. Its metadata hold JSON: Torch-Pruning's pruning history, the shapes of the dense model, what
attention modules remember of their heads, and a digest of all that and of the tensors. Nothing in it is executed when it is
read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from ...checks import shown
from ...engine.results.result import FitResult
from ...engine.storage.atomic import atomically
from ...errors import ConfigError, MissingHostError, TrainingStateError
from ...warn import warn_caller
from ..channels.tracing import undisturbed
from ..channels.uninitialised import refuse_uninitialised
from ..removal.removal import head_attributes, prune_in_order
from .seal import digest
from .state_checks import first_difference, shapes_of
from .storable import storable_state

FORMAT = "fairprune_plugin pruned model 1"
KEY = "fairprune_plugin"
SEAL = "sha256"


def removal_record(pruner: Any) -> dict[str, Any]:
    """How channels were removed, JSON-safe.

    Args:
        pruner: A :class:`~..pruner.BiFPPruner` or any other pruner of Torch-Pruning.

    Raises:
        TrainingStateError: If channels are still hidden rather than removed, or Torch-Pruning's history is wrong.
    """
    graph = pruner.DG
    engine = getattr(pruner, "engine", None)
    if engine is not None and not bool(engine.weights.keep.all()):
        raise TrainingStateError(
            f"{int((~engine.weights.keep).sum())} units are hidden and not removed yet: call pruner.step() first, or save "
            "model.state_dict() and pruner.state_dict() to train on later"
        )
    history = [[name, bool(outwards), [int(i) for i in idxs]] for name, outwards, idxs in pruner.pruning_history()]
    _check_history(pruner, history)
    ignored = {id(parameter) for parameter in pruner.ignored_params}
    return {
        "format": FORMAT,
        "class": _class_of(pruner.model),
        "dense": getattr(pruner, "dense_shapes", None),
        "history": history,
        "heads": head_attributes(pruner),
        "pruning_dims": {
            name: graph.module2node[parameter].pruning_dim
            for parameter, name in graph._param_to_name.items()
            if parameter in graph.module2node
        },
        "graph_anew_at": list(getattr(pruner, "graph_anew_at", [])),
        "ignored_parameters": [name for name, p in pruner.model.named_parameters() if id(p) in ignored],
    }


def _check_history(pruner: Any, history: list[list[Any]]) -> None:
    """``group.prune(idxs=…)`` makes Torch-Pruning 1.6.1 record two removals for one."""
    recorded: dict[str, int] = {}
    for name, outwards, idxs in history:
        if outwards:
            recorded[name] = recorded.get(name, 0) + len(idxs)
    for name, count in recorded.items():
        layer = pruner.model.get_submodule(name)
        lost = pruner.layer_init_out_ch[layer] - pruner.DG.get_out_channels(layer)
        if count > lost:
            raise TrainingStateError(
                f"the pruning history says that {name} lost {count} channels, but it lost {lost}: group.prune(idxs=…) is "
                "recorded twice; prune pruner.DG.get_pruning_group(layer, function, idxs).prune() instead"
            )


def save_pruned(model: nn.Module, source: Any, path: str | os.PathLike[str]) -> None:
    """Saves a pruned model to a safetensors file, from which :func:`load_pruned` rebuilds it. Replaces a file atomically.

    Args:
        model: The pruned model (its weights may have been trained further since).
        source: The pruner that removed its channels, or the result of ``fit``. One pruner must have done all of it.
        path: For example ``"pruned.safetensors"``.

    Raises:
        ConfigError: If the model is not the source's, its state holds something other than dense tensors, or the file
            cannot be written (no such folder, a full disk); a file that was there before is then as it was.
        TrainingStateError: If channels are hidden and not removed yet.
    """
    if not hasattr(source, "model"):
        raise ConfigError(
            f"expected the pruner that removed the channels, or the result of fit, as the source, got {shown(source)}"
        )
    if source.model is not model:
        raise ConfigError(
            "save_pruned(model, source) was given another model than its source pruned: pass the model that the pruner (or "
            "fit) made smaller, without wrappers (model.module of a data-parallel one)"
        )
    if not Path(path).parent.is_dir():
        raise ConfigError(f"cannot save to {path}: the folder {Path(path).parent} is not there, make it first")
    if Path(path).is_dir():
        raise ConfigError(f"cannot save to {path}: it is a folder, name a file in it")
    record = source.removal if isinstance(source, FitResult) else removal_record(source)
    if record.get("format") != FORMAT:
        raise ConfigError("this result does not say how its model was pruned: pass the pruner itself as the source")
    tensors = storable_state(model)
    metadata = {KEY: json.dumps(record), SEAL: digest(record, tensors), "format": "pt"}
    try:
        with atomically(Path(path)) as unfinished:
            _safetensors().torch.save_file(tensors, unfinished, metadata=metadata)
    except KeyError as error:  # of its table of dtypes
        raise ConfigError(
            f"safetensors files cannot hold values of {error}, which are in the model's state: convert them first "
            "(complex ones with torch.view_as_real)"
        ) from error
    except (OSError, _safetensors().SafetensorError) as error:
        size = sum(value.nbytes for value in tensors.values()) / 1e6
        raise ConfigError(
            f"cannot save to {path}: {error}. What was there is as it was; make room for {size:.3g} MB, or name a file in a "
            "folder that can be written to"
        ) from error


def load_pruned(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    forward_fn: Callable[..., Any] | None = None,
    output_transform: Callable[..., Any] | None = None,
    customized_pruners: dict[Any, Any] | None = None,
) -> nn.Module:
    """Rebuilds a pruned model from its original class.

    Args:
        model: A new dense model of the class that was pruned, with any weights. Changed in place.
        path: Written by :func:`save_pruned`.
        example_inputs: As they were given to the pruner.
        forward_fn: As it was given to the pruner.
        output_transform: As it was given to the pruner.
        customized_pruners: As they were given to the pruner.

    Returns:
        The same object, now with the saved layers, weights and dtypes (a model that was saved in half precision comes back
        so); training modes, frozen layers and the device are its own. Warns if its class has another name than the saved
        one.

    Raises:
        ConfigError: For a file of another kind or a damaged one, and for a model that is not of the saved kind or has lazy
            layers without a size; nothing is changed then, except where the difference shows only after pruning (the message
            says so).
    """
    record, tensors = _read(Path(path))
    refuse_uninitialised(model, "run the model on the example inputs once before load_pruned(model, …)")
    if record["dense"] is not None:
        difference = first_difference(record["dense"], shapes_of(model))
        if difference:
            raise ConfigError(
                f"{path} holds a pruned {record['class']}, and this model is none before pruning: {difference}. Pass a new "
                "dense model, built with the same arguments"
            )
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    try:
        with undisturbed(model):
            anew = record.get("graph_anew_at", [])
            for position, (name, outwards, idxs) in enumerate(record["history"]):
                if position == 0 or position in anew:
                    graph = tp.DependencyGraph().build_dependency(
                        model,
                        example_inputs=example_inputs,
                        forward_fn=forward_fn,
                        output_transform=output_transform,
                        unwrapped_parameters=[
                            (model.get_parameter(name), dim) for name, dim in record["pruning_dims"].items()
                        ],
                        customized_pruners=customized_pruners,
                        ignored_params=[model.get_parameter(name) for name in record["ignored_parameters"]],
                        verbose=False,
                    )
                layer = model.get_submodule(name)
                functions = graph.get_pruner_of_module(layer)
                function = functions.prune_out_channels if outwards else functions.prune_in_channels
                prune_in_order(graph.get_pruning_group(layer, function, idxs))
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise _does_not_fit(path, record, f"{type(error).__name__}: {error}") from error
    difference = first_difference({name: list(value.shape) for name, value in tensors.items()}, shapes_of(model))
    if difference:
        raise _does_not_fit(path, record, difference)
    _take_dtypes(model, tensors)
    model.load_state_dict(tensors)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    for module_name, attributes in record["heads"].items():
        for attribute, value in attributes.items():
            setattr(model.get_submodule(module_name), attribute, value)
    if record["class"] != _class_of(model):
        warn_caller(
            f"{path} holds a pruned {record['class']}, and this model is a {_class_of(model)} with layers of the same "
            "shapes: nothing to worry about if the class was moved or renamed, otherwise pass a model of that class"
        )
    return model


def _class_of(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _take_dtypes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """``load_state_dict`` converts what it is given to the dtypes of the model."""
    own = model.state_dict(keep_vars=True)
    for name, value in tensors.items():
        own[name].data = own[name].data.to(value.dtype)


def _does_not_fit(path: Any, record: dict[str, Any], why: str) -> ConfigError:
    return ConfigError(
        f"{path} holds a pruned {record['class']}, and this model cannot become one ({why}): pass a new dense "
        "model, built with the same arguments, and the example inputs of the pruner; the one passed may have lost channels"
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors of a file, as they were saved."""
    try:
        with _safetensors().safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            record = json.loads(metadata.get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (_safetensors().SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} is not a safetensors file, or not a whole one ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ConfigError(
            f"{path} was not written by save_pruned ({FORMAT!r}): it holds weights, but not how the model was pruned"
        )
    if metadata.get(SEAL) != digest(record, tensors):
        raise ConfigError(
            f"{path} is damaged: what is in it is not what save_pruned wrote (its {SEAL} digest differs); copy it anew from "
            "where it came from, or save the model again"
        )
    return record, tensors


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:  # pragma: no cover - part of the extra
        raise MissingHostError(
            "saving and loading pruned models needs safetensors: pip install 'fairprune-plugin[torch-pruning]'"
        ) from error
    return safetensors
