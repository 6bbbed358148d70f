"""Optional: make the classes reachable as ``tp.pruner.BiFPPruner`` and ``tp.importance.BiFPImportance``."""

from __future__ import annotations

import torch_pruning as tp

from .importance import BiFPImportance
from .pruner import BiFPPruner


def register() -> None:
    """Adds the names to Torch-Pruning's modules. Calling it twice is the same as once."""
    tp.pruner.BiFPPruner = BiFPPruner
    tp.importance.BiFPImportance = BiFPImportance


def unregister() -> None:
    """Takes the names away again; does nothing if they are not there."""
    for module, name in ((tp.pruner, "BiFPPruner"), (tp.importance, "BiFPImportance")):
        if name in vars(module):
            delattr(module, name)
