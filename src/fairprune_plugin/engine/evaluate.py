"""A pass over a loader without training: evaluation, label census and batch-norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..fairness.evaluation import Evaluation
from ..fairness.evaluator import Evaluator
from ..fairness.lagrangian import Lagrangian
from .batches import Forward, check_iterable, default_forward, read_batch
from .data_parallel import different_data


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
) -> Evaluation:
    """Accuracy, group rates and verdicts of a model on a split, in eval mode without gradients.

    Args:
        model: To be judged.
        loader: Batches ``(x, y, s)``.
        lagrangian: Its constraints are judged.
        split: Name of the split.
        forward: ``(model, x) → logits``.
        dense: Whether this is the dense model, whose rates degradation parity shall compare with from now on.
        across_ranks: Whether the ranks of the Lagrangian each look at their loader and then count together; all of them
            must call this. If all have the same data, those count once.
        shard_of: The loader of which ``loader`` is a part; it says whether ranks have different samples.

    Raises:
        DataError: For something that yields no batches.
        PeerError: If it failed on another rank.
    """
    check_iterable(loader, split)
    lagrangian.checks.settle()  # what training has found comes before what an evaluation makes of it
    evaluator = Evaluator(lagrangian, split)

    def walk() -> None:
        with mode(model, training=False), torch.no_grad():
            for raw in loader:
                batch = read_batch(raw, model)
                evaluator.add(forward(model, batch.inputs), batch.targets, batch.sensitive)

    def own_part() -> dict[str, Any]:
        walk()
        return evaluator.state_dict()

    if across_ranks and lagrangian.ranks.size > 1:
        parts = lagrangian.ranks.collect(own_part)
        evaluator.take(different_data(parts, loader if shard_of is None else shard_of, Evaluator.of_the_same_data))
    else:
        walk()
    return evaluator.result(dense=dense)


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
    with mode(model, training=False), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean
            norm.training = True
        for number, raw in enumerate(loader):
            if number >= batches:
                break
            forward(model, read_batch(raw, model).inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
