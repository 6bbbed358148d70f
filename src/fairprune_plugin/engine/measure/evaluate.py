"""A pass over a loader without training: evaluation, label census and batch-norm statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...distributed import Ranks
from ...errors import DataError
from ...fairness.evaluation import Evaluation
from ...fairness.evaluator import Evaluator
from ...fairness.lagrangian import Lagrangian
from ..data_parallel import different_data, share_buffers
from ..loaders.batches import Batch, Forward, check_iterable, default_forward, read_batch
from ..loaders.empty_batches import with_samples


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts a model in train or eval mode and afterwards every module back in its own."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in modes.items():
            module.training = was


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    lagrangian: Lagrangian,
    *,
    split: str,
    forward: Forward = default_forward,
    dense: bool = False,
    across_ranks: bool = True,
    shard_of: Iterable[Any] | None = None,
    in_step: bool = False,
) -> Evaluation:
    """Accuracy, group rates and verdicts of a model on a split, in eval mode without gradients.

    Args:
        model: To be judged.
        loader: Batches ``(x, y, s)``; those without samples are left out.
        lagrangian: Its constraints are judged.
        split: Name of the split.
        forward: ``(model, x) → logits``.
        dense: Whether this is the dense model, whose rates degradation parity shall compare with from now on.
        across_ranks: Whether the ranks of the Lagrangian each look at their loader and then count together; all of them
            must call this. If all have the same data, those count once. Buffers (running statistics) become the first
            rank's.
        shard_of: The loader of which ``loader`` is a part; it says whether ranks have different samples.
        in_step: Whether each forward pass takes all ranks, as that of a sharded model does.

    Raises:
        DataError: For something that yields no batches.
        PeerError: If it failed on another rank.
    """
    check_iterable(loader, split)
    lagrangian.checks.settle()  # what training has found comes before what an evaluation makes of it
    evaluator = Evaluator(lagrangian, split)

    def add(logits: Tensor, batch: Batch) -> None:
        evaluator.add(logits, batch.targets, batch.sensitive)

    def walk() -> None:
        with mode(model, training=False), torch.no_grad():
            batches = (read_batch(raw, model) for raw in with_samples(loader))
            if in_step:
                logits_in_step(lagrangian.ranks, batches, lambda inputs: forward(model, inputs), add)
            else:
                for batch in batches:
                    add(forward(model, batch.inputs), batch)

    def own_part() -> dict[str, Any]:
        walk()
        return evaluator.state_dict()

    if across_ranks and lagrangian.ranks.size > 1:
        share_buffers(model, lagrangian.ranks)
        parts = lagrangian.ranks.collect(own_part)
        evaluator.take(different_data(parts, loader if shard_of is None else shard_of, Evaluator.of_the_same_data))
    else:
        walk()
    return evaluator.result(dense=dense)


def logits_in_step(
    ranks: Ranks, batches: Iterator[Batch], forward: Callable[[Any], Tensor], take: Callable[[Tensor, Batch], None]
) -> None:
    """As many forward passes on each rank as the one with the most batches has: one that has run out joins in with its last
    batch, which does not count again, so that the others do not wait for it.

    Args:
        ranks: That take each forward pass together.
        batches: Of this rank.
        forward: ``inputs → logits``.
        take: Called with the logits of each batch.

    Raises:
        DataError: If some rank has no batch at all, and others have.
        PeerError: If another rank's loader failed, or ``take`` did there.
    """
    batch: Batch | None = None
    logits: Tensor | None = None
    fresh = False

    def turn() -> bool:
        nonlocal batch, fresh
        if fresh:
            assert batch is not None
            assert logits is not None
            take(logits, batch)
        following = next(batches, None)
        fresh = following is not None
        batch = batch if following is None else following
        return fresh

    while any(there := ranks.collect(turn)):
        if logits is None and not all(there):
            empty = [str(rank) for rank, has in enumerate(there) if not has]
            raise DataError(
                f"the loader of rank {', '.join(empty)} is empty, and those of other ranks are not: each must take part in "
                "every forward pass of a sharded model; share the data out evenly (DistributedSampler does)"
            )
        assert batch is not None
        logits = forward(batch.inputs)


def recalibrate_batch_norm(
    model: nn.Module, loader: Iterable[Any], *, batches: int, forward: Forward = default_forward
) -> None:
    """Replaces running statistics by the plain mean over some training batches of the model as it is now."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    with mode(model, training=False), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative mean
                norm.training = True
            for number, raw in enumerate(with_samples(loader)):
                if number >= batches:
                    break
                forward(model, read_batch(raw, model).inputs)
        except BaseException:  # Ctrl-C too: half a pass is no statistics
            for norm, state in zip(norms, before, strict=True):
                norm.load_state_dict(state)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
