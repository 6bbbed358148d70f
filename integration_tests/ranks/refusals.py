"""Cases that are to be refused: each is played on every rank, and what it raises is written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fairprune_plugin.errors import FairPruneError
from fairprune_plugin.torch_pruning import BiFPPruner

from .parts import global_batches, shard

Case = Callable[[int, int], None]
"""Of a rank and the number of ranks."""


def told(action: Callable[[], Any]) -> str:
    """The error of an action, in words."""
    try:
        action()
    except FairPruneError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


class Cases:
    """As a decorator it takes a case in, by its name."""

    def __init__(self) -> None:
        self._cases: dict[str, Case] = {}

    def __call__(self, case: Case) -> Case:
        self._cases[case.__name__] = case
        return case

    def told_on(self, rank: int, world: int) -> dict[str, str]:
        """What each of them raises, one after the other."""
        return {name: told(lambda case=case: case(rank, world)) for name, case in self._cases.items()}


def backward(pruner: BiFPPruner, trained: nn.Module, rank: int, world: int) -> None:
    """The gradients of this rank's part of a batch: ``regularize()`` is next."""
    x, y, s = shard(global_batches(1)[0], rank, world)
    pruner.loss(trained(x), y, s).backward()
