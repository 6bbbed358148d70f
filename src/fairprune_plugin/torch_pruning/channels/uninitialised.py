"""Lazy layers of which no forward pass has said yet how large they are."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from ...errors import ConfigError


def refuse_uninitialised(model: nn.Module, fix: str) -> None:
    """Raises a ``ConfigError`` for a model with parameters or buffers that have no shape.

    Args:
        model: That is about to be pruned.
        fix: What to do, for the end of the message.
    """
    lazy = [name for name, value in model.state_dict(keep_vars=True).items() if is_lazy(value)]
    if lazy:
        more = f" (and {len(lazy) - 1} more)" if len(lazy) > 1 else ""
        raise ConfigError(
            f"expected a model whose layers have their sizes, but {lazy[0]}{more} is of a lazy layer: {fix}"
        )
