"""The host's dependency graph of a model, and what it says where it cannot build one."""

from __future__ import annotations

from typing import Any

import torch_pruning as tp
from torch import nn

from ...errors import ConfigError, UnsupportedModelError
from .computed_weights import refuse_hooked
from .consistency import check_tied
from .example import Example
from .grouping import HostGroup, host_groups
from .uninitialised import refuse_uninitialised

# What Torch-Pruning raises for a model that it cannot follow: it looks up layers, channels and attributes that are not
# there, divides by channel counts of 0, and calls pruning functions that a layer's kind (or one of the user's
# customized_pruners) has left out, for which its base class raises NotImplementedError. None of them is ours.
HOST_FAILURES = (IndexError, KeyError, AttributeError, ZeroDivisionError, NotImplementedError)
# What both the host and the model (called in another way than it wants) raise.
AMBIGUOUS_FAILURES = (TypeError, ValueError, RuntimeError, AssertionError)


def build_graph(pruner: Any, model: nn.Module, example: Example, options: dict[str, Any]) -> list[HostGroup]:
    """Makes an object a ``tp.pruner.BasePruner``, with the graph of its model; returns the groups of channels in it.

    Args:
        pruner: Not initialised yet as the host's, with ``frozen_parameters``.
        model: Dense, in the state that :func:`~.tracing.undisturbed` puts it into.
        example: Inputs to trace it with.
        options: The host's arguments.

    Raises:
        ConfigError: If the model cannot run on the example inputs, or nothing is left to prune.
        UnsupportedModelError: If the graph cannot be built, or some group cannot be masked faithfully.
    """
    refuse_hooked(model)
    try:
        tp.pruner.BasePruner.__init__(pruner, model, example.inputs, importance=None, **options)
    except HOST_FAILURES as error:
        raise no_graph(error) from error
    except AMBIGUOUS_FAILURES as error:
        if isinstance(error, TypeError | AssertionError) and raised_by_host(error):
            raise no_graph(error) from error
        # Not by the host, but by the model, which was called in another way than it wants.
        example.check(model, error)
        raise
    refuse_uninitialised(model, "the forward pass of the example inputs does not reach it, so take it out of the model")
    groups = list(host_groups(pruner))
    if not groups:
        raise ConfigError(
            "no layer is left to prune: every group of channels is in ignored_layers, feeds the model's "
            "output or contains no convolution or linear layer; ignore fewer layers"
        )
    check_tied(model, groups)
    return groups


def graph_anew(pruner: Any) -> Any:
    """The graph of a pruner's model as it is now, with the history of what was removed."""
    old = pruner.DG
    graph = tp.DependencyGraph().build_dependency(
        pruner.model,
        example_inputs=pruner._example.inputs,
        unwrapped_parameters=[
            (pruner.model.get_parameter(name), old.module2node[parameter].pruning_dim)
            for parameter, name in old._param_to_name.items()
            if parameter in old.module2node
        ],
        ignored_params=pruner.ignored_params,
        verbose=False,
        **pruner.tracing,
    )
    graph._pruning_history = old._pruning_history
    pruner.graph_anew_at.append(len(old._pruning_history))  # whoever goes through the history again needs one there too
    return graph


def no_graph(error: Exception) -> UnsupportedModelError:
    """What to say when the host's graph building breaks down."""
    return UnsupportedModelError(
        f"Torch-Pruning cannot build a dependency graph of this model ({type(error).__name__}: {error}): replace or wrap "
        "what it stumbles over (recurrent layers, layers of an unknown type, what splits or concatenates their outputs); "
        "if forward returns an object of your own, let forward_fn=lambda model, x: … of the pruner return its tensors"
    )


def raised_by_host(error: Exception) -> bool:
    """Whether an exception comes from a line of Torch-Pruning, and not of the model it was tracing."""
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).split(".")[0] == "torch_pruning"
