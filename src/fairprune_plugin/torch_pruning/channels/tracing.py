"""The host traces a model without leaving traces on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Traces need gradients on and leave the model in eval mode; afterwards everything is as it was.

    A parameter with ``requires_grad=False`` is invisible to Torch-Pruning's tracing: its batch norm would be
    pruned and the frozen layer not, so gradients are enabled while the graph is built.
    """
    modes = {module: module.training for module in model.modules()}
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    generator = torch.get_rng_state()
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, mode in modes.items():
            module.training = mode
        torch.set_rng_state(generator)


def frozen_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that are not trained, as long as no trace has switched their gradients on."""
    return {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
