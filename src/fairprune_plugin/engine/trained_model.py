"""The model as the steps of a training see it: whole on every rank, or spread over them by ``fully_shard``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..distributed import Ranks
from ..shards import local
from .data_parallel import refuse_diverged


class TrainedModel:
    """One that every rank has whole; data parallelism keeps weights and gradients the same on all of them.

    Args:
        module: The model.
        ranks: That train it.
    """

    def __init__(self, module: nn.Module, ranks: Ranks) -> None:
        self.module = module
        self.ranks = ranks

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that the optimizer moves."""
        return list(self.module.parameters())

    def gradients(self) -> list[Tensor]:
        """What this rank has of them; those that exist."""
        return [p.grad for p in self.module.parameters() if p.grad is not None]

    def total(self, part: Tensor) -> Tensor:
        """Of a value that each rank has computed from what it has of the weights or gradients, that of all of them."""
        return part

    def norm(self, gradient: Tensor) -> Tensor:
        """Of a parameter's gradient, all of it."""
        norm: Tensor = gradient.norm()
        return norm

    def settle(self) -> None:
        """To be called before something is written into the weights."""

    def refuse_diverged(self, *, gradients: bool = False) -> None:
        """See :func:`~.data_parallel.refuse_diverged`."""
        refuse_diverged(self.module, self.ranks, gradients=gradients)


def reshard(module: nn.Module) -> None:
    """Makes the parameters of a model under ``fully_shard`` sharded ones, if a forward pass has left them whole."""
    for part in module.modules():
        # By what it can do: importing the class takes seconds, and whoever has such a model has imported it.
        sharded: Any = part
        if hasattr(sharded, "reshard"):
            sharded.reshard()


class ShardedModel(TrainedModel):
    """One whose parameters ``fully_shard`` (FSDP2) has spread over the ranks: there is one copy of each weight, which cannot
    differ between ranks.

    Args:
        module: The model.
        ranks: That train it.
        parameters: Its sharded parameters. Between a forward pass and what follows, the model has whole ones instead; these
            are the ones that optimizers hold and gradients belong to.
    """

    def __init__(self, module: nn.Module, ranks: Ranks, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(module, ranks)
        self._parameters = list(parameters)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return self._parameters

    def gradients(self) -> list[Tensor]:
        return [local(p.grad) for p in self._parameters if p.grad is not None]

    def total(self, part: Tensor) -> Tensor:
        return self.ranks.sum(part)

    def norm(self, gradient: Tensor) -> Tensor:
        return self.total(local(gradient).square().sum()).sqrt()

    def settle(self) -> None:
        """Whole parameters that a forward pass has left behind (after an evaluation the root module's) are dropped: the
        next one would read them, and not what was written."""
        reshard(self.module)

    def refuse_diverged(self, *, gradients: bool = False) -> None:
        """Nothing to look at."""
