"""Layers that run and that the dependency graph does not see, because what was traced leaves their outputs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...engine.measure.evaluate import mode


def unseen_layers(model: nn.Module, graph: Any, run: Callable[[], object]) -> list[str]:
    """Names of layers with parameters of their own that a forward pass calls and that are not in the graph.

    Args:
        model: The graph is of.
        graph: A ``tp.DependencyGraph``.
        run: Runs the model once.
    """
    candidates = {
        layer: name
        for name, layer in model.named_modules()
        if layer not in graph.module2node
        and any(True for _ in layer.parameters(recurse=False))
        # a parameter may be in the graph by itself
        and not any(parameter in graph.module2node for parameter in layer.parameters(recurse=False))
    }
    called: set[nn.Module] = set()
    handles = [layer.register_forward_hook(lambda module, *_: called.add(module)) for layer in candidates]
    try:
        with mode(model, training=False):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return [name for layer, name in candidates.items() if layer in called]
