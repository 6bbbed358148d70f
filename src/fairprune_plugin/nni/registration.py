"""Optional: make the pruner reachable as ``nni.compression.pruning.BiFPPruner``, beside NNI's own."""

from __future__ import annotations

from nni.compression import pruning

from .pruner import BiFPPruner


def register() -> None:
    """Adds the name to NNI's module. Calling it twice is the same as once."""
    pruning.BiFPPruner = BiFPPruner


def unregister() -> None:
    """Takes the name away again; does nothing if it is not there."""
    if "BiFPPruner" in vars(pruning):
        del pruning.BiFPPruner
