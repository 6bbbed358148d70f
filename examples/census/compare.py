"""Magnitude pruning with fine-tuning and BiFP on the census: same dense model, size and number of training steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import nn

from fairprune_plugin import Constraint
from fairprune_plugin.engine.measure.evaluate import evaluate
from fairprune_plugin.engine.results.result import FitResult, Size
from fairprune_plugin.fairness.evaluation import Evaluation
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.torch_pruning import BiFPPruner

from .data import Census
from .network import BATCH, FINE_TUNING_RATE, LEARNING_RATE, make_optimizer, mlp, train


@dataclass(frozen=True)
class Contender:
    """One model of the comparison on the test split."""

    name: str
    model: nn.Module
    size: Size
    test: Evaluation


@dataclass(frozen=True)
class Comparison:
    """The dense model and both pruned ones, and the BiFP run's own result."""

    dense: Contender
    magnitude: Contender
    bifp: Contender
    fit: FitResult


@dataclass(frozen=True)
class Settings:
    """What the demo's command line sets."""

    constraint: Constraint
    pruning_ratio: float
    dense_steps: int
    steps: int
    seed: int
    progress: bool = True


def compare(census: Census, settings: Settings) -> Comparison:
    """Trains the dense model once and prunes two copies of it."""
    torch.manual_seed(settings.seed)
    dense = mlp(census.num_features)
    train(dense, census.train, steps=settings.dense_steps, lr=LEARNING_RATE, seed=settings.seed)
    judge = _Judge(census, settings.constraint, dense)
    magnitude = copy.deepcopy(dense)
    prune_by_magnitude(magnitude, census, settings)
    bifp = copy.deepcopy(dense)
    result = prune_by_bifp(bifp, census, settings)
    return Comparison(
        judge.contender("dense", dense),
        judge.contender("magnitude + fine-tuning", magnitude),
        judge.contender("BiFP", bifp),
        result,
    )


def prune_by_magnitude(model: nn.Sequential, census: Census, settings: Settings) -> None:
    """Torch-Pruning's group magnitude at once, then fine-tuning for as many steps as BiFP takes."""
    pruner = tp.pruner.BasePruner(
        model,
        census.train.x[:2],
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=settings.pruning_ratio,
        ignored_layers=[model[-1]],
        # Fresh dictionaries: the host's defaults are shared between pruners.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    train(model, census.train, steps=settings.steps, lr=FINE_TUNING_RATE, seed=settings.seed)


def prune_by_bifp(model: nn.Sequential, census: Census, settings: Settings) -> FitResult:
    """Weights and mask in one run under the constraint."""
    torch.manual_seed(settings.seed)
    pruner = BiFPPruner(
        model,
        census.train.x[:2],
        pruning_ratio=settings.pruning_ratio,
        ignored_layers=[model[-1]],
        constraint=settings.constraint,
        total_steps=settings.steps,
    )
    optimizer, schedule = make_optimizer(model, settings.steps, FINE_TUNING_RATE)
    return pruner.fit(
        census.train.loader(BATCH, shuffle=True, seed=settings.seed),
        optimizer,
        validation=census.validation.loader(1024, shuffle=False),
        lr_scheduler=schedule,
        progress=settings.progress,
    )


class _Judge:
    """Measures models on the test split; degradation is relative to the dense model there."""

    def __init__(self, census: Census, constraint: Constraint, dense: nn.Module) -> None:
        self._loader = census.test.loader(4096, shuffle=False)
        self._example = census.test.x[:256]
        self._lagrangian = Lagrangian(constraint)
        evaluate(dense, self._loader, self._lagrangian, split="test", dense=True)

    def contender(self, name: str, model: nn.Module) -> Contender:
        from fairprune_plugin.engine.measure.latency import latency_ms
        from fairprune_plugin.torch_pruning.size.macs import count

        macs, params = count(model, self._example[:1])
        hidden = sum(m.out_features for m in model.modules() if isinstance(m, nn.Linear)) - 2
        size = Size(hidden, params, macs, latency_ms(model, lambda: model(self._example), repeats=50))
        return Contender(name, model, size, evaluate(model, self._loader, self._lagrangian, split="test"))
