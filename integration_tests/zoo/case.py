"""What a test needs to know about one small architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | dict[str, Tensor]


def _no_kwargs(_: nn.Module) -> dict[str, Any]:
    return {}


def _as_is(output: Any) -> Tensor:
    assert isinstance(output, Tensor)
    return output


def _nothing(_model: nn.Module, _pruner: object) -> None:
    return None


def _no_norms(_: nn.Module) -> list[nn.Module]:
    return []


@dataclass(frozen=True)
class Case:
    """One architecture, with what Torch-Pruning needs in order to prune it.

    Attributes:
        name: readable test id.
        build: a fresh, randomly initialised model.
        inputs: fixed example inputs; a dict is passed as keywords.
        ignored: layers that must keep their width (at least the output layer).
        pruner_kwargs: fresh keyword arguments for the pruner of this model.
        logits: the tensor to compare, out of what the model returns.
        exact: whether some mask reproduces the pruned network exactly.
        cross_channel_norms: layers with statistics across pruned channels; a mask has to restrict them.
        after_prune: repairs what a physical pruning leaves stale in the modules.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    ignored: Callable[[nn.Module], list[nn.Module]]
    pruner_kwargs: Callable[[nn.Module], dict[str, Any]] = _no_kwargs
    logits: Callable[[Any], Tensor] = _as_is
    exact: bool = True
    cross_channel_norms: Callable[[nn.Module], list[nn.Module]] = _no_norms
    after_prune: Callable[[nn.Module, object], None] = _nothing

    def forward(self, model: nn.Module) -> Tensor:
        """The logits of ``model`` on the example inputs."""
        x = self.inputs()
        return self.logits(model(**x) if isinstance(x, dict) else model(x))


def named(*names: str) -> Callable[[nn.Module], list[nn.Module]]:
    """Look up submodules by dotted name."""
    return lambda model: [model.get_submodule(name) for name in names]


def of_type(kind: type[nn.Module]) -> Callable[[nn.Module], list[nn.Module]]:
    """Look up all submodules of one type."""
    return lambda model: [m for m in model.modules() if isinstance(m, kind)]


def gaussian(*shape: int, seed: int = 0) -> Callable[[], Tensor]:
    """The same normal tensor at every call."""
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
