"""Layers that run and that the dependency graph does not see, because what was traced leaves their outputs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def unseen_layer_that_fails(model: nn.Module, graph: Any, run: Callable[[], object]) -> str | None:
    """The layer outside of the graph that a forward pass stops at: its inputs were removed, and it does not know.

    Args:
        model: With fewer channels than it had.
        graph: The ``tp.DependencyGraph`` by which they were removed.
        run: Runs the model once.

    Returns:
        Its name in ``named_modules()``; ``None`` if the model runs, or stops elsewhere.
    """
    candidates = {
        layer: name
        for name, layer in model.named_modules()
        if layer not in graph.module2node
        and any(True for _ in layer.parameters(recurse=False))
        # a parameter may be in the graph by itself
        and not any(parameter in graph.module2node for parameter in layer.parameters(recurse=False))
    }
    inside: list[nn.Module] = []
    handles = [layer.register_forward_pre_hook(lambda module, _: inside.append(module)) for layer in candidates]
    handles += [layer.register_forward_hook(lambda module, *_: inside.remove(module)) for layer in candidates]
    try:
        run()
    except Exception:  # whatever a layer says of inputs that are too narrow
        return candidates[inside[-1]] if inside else None
    finally:
        for handle in handles:
            handle.remove()
    return None
