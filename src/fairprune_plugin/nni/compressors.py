"""Which compressors have a say in a model, as far as its wrappers tell."""

from __future__ import annotations

from nni.compression.base.wrapper import ModuleWrapper
from torch import nn


def target_count(model: nn.Module) -> int:
    """Number of targets that all compressors of a wrapped model have configured together; one that drives another, as an
    ``AGPPruner`` does, has none of its own."""
    wrappers = [module for module in model.modules() if isinstance(module, ModuleWrapper)]
    return sum(
        len(wrapper.pruning_target_spaces)
        + len(wrapper.quantization_target_spaces)
        + len(wrapper.distillation_target_spaces)
        for wrapper in wrappers
    )
