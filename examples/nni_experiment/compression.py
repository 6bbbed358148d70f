"""One trial: a dense model is trained, pruned through NNI by any pruner, made smaller, tuned and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import nni
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin import build_pruner
from fairprune_plugin.engine.measure.evaluate import evaluate
from fairprune_plugin.fairness.constraints import CONSTRAINTS
from fairprune_plugin.fairness.evaluation import Evaluation
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.nni import TorchEvaluator, speedup
from fairprune_plugin.torch_pruning.size.macs import count

from .objective import metric
from .problem import Batch, Problem, problem
from .settings import Settings

DENSE_RATE = 0.05
Report = Callable[[dict[str, Any]], None]


def run(settings: Settings, report: Report) -> dict[str, Any]:
    """Runs a trial.

    Args:
        settings: Its parameters.
        report: Gets an intermediate result every ``evaluate_every`` steps.

    Returns:
        The final result, plain values: ``default`` (see :func:`~.objective.objective`), ``accuracy``, ``gap`` and
        ``feasible`` on validation data, ``test_accuracy`` and ``test_gap``, ``params`` and ``macs`` of the smaller model
        and their shares of the dense one's, accuracy and gap of the dense model, and the ``parameters`` used.
    """
    work = problem(settings)
    judge = Judge(settings, work)
    train_dense(settings, work)
    dense = judge(work.model, "validation", dense=True)
    judge(work.model, "test", dense=True)
    macs, params = count(work.model, work.example)
    compress(settings, work, lambda model: report(metric(judge(model, "validation"))))
    validation, test = judge(work.model, "validation"), judge(work.model, "test")
    small_macs, small_params = count(work.model, work.example)
    return {
        **metric(validation),
        "test_accuracy": test.accuracy,
        "test_gap": metric(test)["gap"],
        "params": small_params,
        "params_share": small_params / params,
        "macs": small_macs,
        "macs_share": small_macs / macs,
        "dense_accuracy": dense.accuracy,
        "dense_gap": metric(dense)["gap"],
        "parameters": settings.to_dict(),
    }


class Judge:
    """Evaluates models on a split at the required tolerance; degradation parity compares with the dense model."""

    def __init__(self, settings: Settings, work: Problem) -> None:
        constraint = CONSTRAINTS[settings.constraint](tolerance=settings.required_tolerance, groups=work.group_names)
        self._lagrangian = Lagrangian(constraint)
        self._splits: dict[str, Iterable[Batch]] = {"validation": work.validation, "test": work.test}

    def __call__(self, model: nn.Module, split: str, *, dense: bool = False) -> Evaluation:
        return evaluate(model, self._splits[split], self._lagrangian, split=split, dense=dense)


def train_dense(settings: Settings, work: Problem) -> None:
    """The same dense model for every trial with the same seed."""
    optimizer = torch.optim.SGD(work.model.parameters(), lr=DENSE_RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.dense_steps)
    train(work.model, optimizer, schedule, work.endless(), settings.dense_steps)


def compress(settings: Settings, work: Problem, after: Callable[[nn.Module], None]) -> None:
    """Prunes the model in place with NNI and tunes it for what is left of the steps.

    BiFP prunes and trains in one run. The host's pruners take their mask first (Taylor from the gradients of a tenth of
    the steps), and the smaller model is tuned with the remaining ones, without a constraint.
    """
    model, batches = work.model, work.endless()
    done = 0

    def after_step(stepped: nn.Module) -> None:
        nonlocal done
        done += 1
        if done % settings.evaluate_every == 0:
            after(stepped)

    def training_func(
        bound: nn.Module, bound_optimizer: Any, step: Any, _: Any, max_steps: int | None, __: int | None
    ) -> None:
        # Made here, not traced: a schedule that is older than NNI's patch of optimizer.step takes it for a mistake.
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(bound_optimizer, settings.steps)
        train(bound, bound_optimizer, schedule, batches, max_steps or 0, step, after_step)

    # The optimizer comes before the pruner: wrapping makes new parameters, and NNI finds the traced ones by identity.
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), **optimizer_options(settings))
    pruner = build_pruner(
        settings.spec(work.group_names),
        model,
        work.example,  # with it, layers and batch norms that lose channels together are found and configured
        host="nni",
        config_list=[{"op_types": [work.layers], "exclude_op_names": [work.output_layer]}],
        evaluator=TorchEvaluator(training_func, optimizer, training_step),
        sensitive=sensitive,  # for BiFP
        validation=work.validation,  # for BiFP: held-out data drive its multipliers
        training_steps=max(1, settings.steps // 10),  # for Taylor
    )
    if settings.name == "bifp":
        if settings.constraint == "degradation_parity":  # compares with the dense model, which this still is
            pruner.measure_dense(work.train())
            pruner.measure_dense(work.validation, split="validation")
        _, masks = pruner.compress(settings.steps, None)
    else:
        _, masks = pruner.compress(None, None)
    pruner.unwrap_model()
    speedup(model, masks, work.example)
    left = settings.steps - done
    if left > 0:
        tuner = torch.optim.SGD(model.parameters(), **optimizer_options(settings))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(tuner, left)
        train(model, tuner, schedule, batches, left, after=after_step)


def optimizer_options(settings: Settings) -> dict[str, float]:
    """SGD for pruning and tuning."""
    return {"lr": settings.learning_rate, "momentum": 0.9, "weight_decay": 1e-4}


def sensitive(batch: Batch) -> Tensor:
    """Group ids of a batch."""
    return batch[2]


def training_step(batch: Batch, model: nn.Module) -> Tensor:
    """The task loss; a compressor adds to it."""
    return F.cross_entropy(model(batch[0]), batch[1])


def train(
    model: nn.Module,
    optimizer: Any,
    schedule: Any,
    batches: Iterator[Batch],
    steps: int,
    step: Callable[[Batch, nn.Module], Tensor] = training_step,
    after: Callable[[nn.Module], None] = lambda _: None,
) -> None:
    """The plain loop, for the dense model, under a compressor and for tuning; ``after`` is called after each step."""
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        step(next(batches), model).backward()
        optimizer.step()
        schedule.step()
        after(model)
