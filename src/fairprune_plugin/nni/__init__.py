"""NNI host: the bi-level pruner, structured configs and the speed-up."""

from ..errors import MissingHostError

try:
    import nni as _host
    import nni.compression as _compression
    import torch_pruning as _graph
except ImportError as error:  # pragma: no cover - exercised in a subprocess without the host
    raise MissingHostError(
        f"fairprune_plugin.nni needs NNI 3.0 and Torch-Pruning ({error}): pip install 'fairprune-plugin[nni]'"
    ) from error

del _host, _compression, _graph

from .evaluator_checks import TorchEvaluator  # noqa: E402 - only once the host is known to be there
from .pruner import BiFPPruner  # noqa: E402
from .registration import register, unregister  # noqa: E402
from .speedup import speedup  # noqa: E402
from .structured import configure_structured  # noqa: E402

__all__ = ["BiFPPruner", "TorchEvaluator", "configure_structured", "register", "speedup", "unregister"]
