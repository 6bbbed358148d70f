"""Torch-Pruning host: the bi-level pruner, its importance criterion and the registration with the host."""

from ..errors import MissingHostError

try:
    import torch_pruning as _host
except ImportError as error:  # pragma: no cover - exercised in a subprocess without the host
    raise MissingHostError(
        "fairprune_plugin.torch_pruning needs Torch-Pruning: pip install 'fairprune-plugin[torch-pruning]'"
    ) from error

del _host

from ..engine.data_parallel import rewrap  # noqa: E402 - only once the host is known to be there
from .importance import BiFPImportance  # noqa: E402
from .pruner import BiFPPruner  # noqa: E402
from .registration import register, unregister  # noqa: E402
from .state.saved_model import load_pruned, save_pruned  # noqa: E402

__all__ = ["BiFPImportance", "BiFPPruner", "load_pruned", "register", "rewrap", "save_pruned", "unregister"]
