"""The host's dependency graph for a copy of its model, without tracing the copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def copied_graph(graph: Any, model: nn.Module, copies: Mapping[Any, Any]) -> Any:
    """A graph that channels can be removed from while the original stays as it is.

    Args:
        graph: A ``tp.DependencyGraph``.
        model: The copy of its model.
        copies: By each module and parameter of the original model, that of the copy.
    """
    # The host gives cat, split, slice and the outputs modules of its own, which know how many channels they have left.
    operations = {part: _alike(part) for part in graph.module2node if part not in copies}

    def of(part: Any) -> Any:
        return copies[part] if part in copies else operations.get(part, part)

    nodes = {node: _alike(node) for node in graph.module2node.values()}
    for node, twin in nodes.items():
        twin.module = of(node.module)
        twin.inputs = [nodes[other] for other in node.inputs]
        twin.outputs = [nodes[other] for other in node.outputs]
        twin.dependencies = [_alike(dependency) for dependency in node.dependencies]
        for dependency in twin.dependencies:
            dependency.source, dependency.target = nodes[dependency.source], nodes[dependency.target]
    twin_graph = _alike(graph)
    twin_graph.model = model
    twin_graph.module2node = {of(part): nodes[node] for part, node in graph.module2node.items()}
    twin_graph._module2name = {of(part): name for part, name in graph._module2name.items()}
    twin_graph._param_to_name = {of(parameter): name for parameter, name in graph._param_to_name.items()}
    twin_graph.unwrapped_parameters = [(of(parameter), dim) for parameter, dim in graph.unwrapped_parameters]
    twin_graph.ignored_params = [of(parameter) for parameter in graph.ignored_params]
    twin_graph.IGNORED_LAYERS_IN_TRACING = [of(layer) for layer in graph.IGNORED_LAYERS_IN_TRACING]
    twin_graph.__dict__.pop("get_all_groups", None)
    return twin_graph


def _alike(original: Any) -> Any:
    """An object with the same attributes and lists of its own: numbers of channels are counted down in them."""
    twin = object.__new__(type(original))
    twin.__dict__.update(
        {name: list(value) if isinstance(value, list) else value for name, value in vars(original).items()}
    )
    return twin
