"""Masks by NNI's own pruners, each as NNI has it, and BiFP inside NNI on single weights.

Everything here leaves the model unwrapped. NNI is imported where it is used: the comparisons on Torch-Pruning alone do
not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin.engine.config import BiLevelConfig

from .moments import Moments
from .problems import Problem
from .tuning import MOMENTS, Budget, batches, optimizer_settings

CALIBRATION = 8  # batches that a data-driven score looks at, each a pass; as for the scores of our own
GOALS = 6  # times that a gradual pruner raises its goals

Config = list[dict[str, Any]]
Masks = Mapping[str, Mapping[str, Tensor]]
HostMasks = Callable[[Problem, nn.Module, Config, Budget], tuple[Masks, int]]
Loop = Callable[..., None]


def level(problem: Problem, model: nn.Module, config: Config, budget: Budget) -> tuple[Masks, int]:
    """``LevelPruner``: the magnitude of single weights, at once."""
    from nni.compression.pruning import LevelPruner

    return _made(LevelPruner(model, config)), 0


def fpgm(problem: Problem, model: nn.Module, config: Config, budget: Budget) -> tuple[Masks, int]:
    """``FPGMPruner``: filters nearest to all others of their layer, at once."""
    from nni.compression.pruning import FPGMPruner

    return _made(FPGMPruner(model, config)), 0


def taylor(problem: Problem, model: nn.Module, config: Config, budget: Budget) -> tuple[Masks, int]:
    """``TaylorPruner``: Σ over batches of (w · ∂L/∂w)², at once.

    NNI's pruner trains while it looks. Here it looks at a model that stands still, in eval mode and with a learning rate
    of 0, as the scores of our own do.
    """
    from nni.compression.pruning import TaylorPruner

    def look(
        model: nn.Module, optimizer: Any, step: Any, _: Any, max_steps: int | None, max_epochs: int | None
    ) -> None:
        assert max_steps is not None
        model.eval()
        for batch in batches(problem, max_steps, order=problem.seed):
            optimizer.zero_grad()
            step(batch, model).backward()
            optimizer.step()

    modes = {module: module.training for module in model.modules()}
    standing = _evaluator(model, look, torch.optim.SGD, {"lr": 0.0})
    masks = _made(TaylorPruner(model, config, standing, CALIBRATION))
    for module, mode in modes.items():
        module.training = mode
    return masks, CALIBRATION


def gradual(pruner: str) -> HostMasks:
    """``AGPPruner`` around another one: the ratio rises by a cubic while the weights train on the task loss.

    The rise takes as long as BiFP's, at the peak learning rate.

    Args:
        pruner: Name of a pruner of NNI that needs no data.
    """

    def masks(problem: Problem, model: nn.Module, config: Config, budget: Budget) -> tuple[Masks, int]:
        from nni.compression import pruning

        interval = max(1, round(BiLevelConfig().ramp_end * budget.passes / GOALS))
        steps = interval * GOALS
        kind, options = optimizer_settings(problem, budget.lr)
        training = _evaluator(model, _loop(problem), kind, options)
        bound = getattr(pruning, pruner)(model, config, training)
        return _made(pruning.AGPPruner(bound, interval, GOALS), steps, None), steps

    return masks


def bifp(problem: Problem, model: nn.Module, config: Config, budget: Budget, **bilevel: Any) -> tuple[Masks, int]:
    """A whole run of :class:`fairprune_plugin.nni.BiFPPruner`: weights and mask, the best moment on validation.

    As ``fit`` does it on Torch-Pruning: the same driver of the multipliers, rule of choice and batch-norm statistics.

    Args:
        problem: Data and constraint.
        model: Trained in place; hidden weights are zero afterwards.
        config: NNI's.
        budget: Passes and learning rate.
        **bilevel: Settings of :class:`fairprune_plugin.engine.config.BiLevelConfig`.

    Returns:
        The masks, and forward-backward passes.
    """
    from fairprune_plugin.nni import BiFPPruner

    moments = Moments(problem)

    def after(wrapped: nn.Module, number: int) -> None:
        last = number == budget.passes
        if pruner.engine.at_target and (last or number % max(1, budget.passes // MOMENTS) == 0):
            moments.offer(wrapped, pruner.weights.keep, number)
        if last:
            moments.restore(wrapped)

    kind, options = optimizer_settings(problem, budget.lr)
    pruner: Any = BiFPPruner(
        model,
        config,
        _evaluator(model, _loop(problem, cosine=True, after=after), kind, options),
        constraint=problem.constraint,
        sensitive=lambda batch: batch[2],
        validation=problem.splits["validation"],
        bilevel=bilevel or None,
    )
    if problem.constraint.relative_to_dense:
        for split in ("train", "validation"):
            pruner.measure_dense(problem.splits[split], split=split)
    masks = _made(pruner, budget.passes, None)
    moments.recalibrate(model)
    return masks, pruner.engine.passes


def _loop(problem: Problem, *, cosine: bool = False, after: Callable[[nn.Module, int], None] | None = None) -> Loop:
    """NNI's ``training_func``: steps over the training batches, one pass each."""

    def train(
        model: nn.Module, optimizer: Any, step: Any, _: Any, max_steps: int | None, max_epochs: int | None
    ) -> None:
        assert max_steps is not None
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max_steps) if cosine else None
        model.train()
        for number, batch in enumerate(batches(problem, max_steps, order=problem.seed), start=1):
            optimizer.zero_grad()
            step(batch, model).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            if after is not None:
                after(model, number)

    return train


def _evaluator(model: nn.Module, loop: Loop, kind: Any, options: dict[str, Any]) -> Any:
    import nni

    from fairprune_plugin.nni import TorchEvaluator

    def training_step(batch: Any, model: nn.Module) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    return TorchEvaluator(loop, nni.trace(kind)(model.parameters(), **options), training_step)


def _made(pruner: Any, *length: int | None) -> Masks:
    """The masks of a run, with the model unwrapped."""
    masks: Masks = pruner.compress(*length)[1]
    pruner.unwrap_model()
    return masks
