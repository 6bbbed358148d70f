"""The whole run in one call: train weights and mask, keep the best feasible model, remove its channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import ConfigError, DataError, NonFiniteError, TrainingStateError
from ..fairness.evaluation import SATISFIED, Evaluation
from ..fairness.lagrangian import TRAIN, VALIDATION, Lagrangian
from .batches import Batch, Forward, read_batch
from .bilevel import BiLevelEngine
from .census import check_loader
from .evaluate import evaluate, mode, recalibrate_batch_norm
from .result import FitResult, HistoryRow, Size
from .snapshots import BestSnapshot, rank
from .validation_stream import ValidationStream, endless

OnEvaluation = Callable[[HistoryRow], None]


class Host(Protocol):
    """What the run needs of a host's pruner."""

    model: nn.Module
    engine: BiLevelEngine
    lagrangian: Lagrangian
    total_steps: int | None
    dense_record: tuple[Evaluation, Size] | None

    def plan(self, total_steps: int) -> None: ...
    def loss(self, logits: Tensor, targets: Tensor, sensitive: Tensor | None = None) -> Tensor: ...
    def regularize(self, model: nn.Module) -> None: ...
    def remove_round(self) -> None: ...
    def rounds_left(self) -> int: ...
    def rebuild_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer: ...
    def size(self) -> Size: ...


@dataclass(frozen=True)
class FitOptions:
    """Settings of a run; see ``BiFPPruner.fit`` for their meaning."""

    epochs: int | None
    validate_every: int | None
    dual_every: int
    recalibration_batches: int
    progress: bool
    forward: Forward
    on_evaluation: OnEvaluation | None


class Run:
    """One call of ``fit``.

    Args:
        host: The pruner.
        train: Training batches ``(x, y, s)``.
        optimizer: Of the model's parameters.
        validation: Held-out batches; drive multipliers and choose the snapshot.
        mask_loader: Batches of the mask steps; default the training batches.
        lr_scheduler: Stepped once per training step.
        options: Everything else.
    """

    def __init__(
        self,
        host: Host,
        train: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        validation: Iterable[Any] | None,
        mask_loader: Iterable[Any] | None,
        lr_scheduler: Any,
        options: FitOptions,
    ) -> None:
        self.host = host
        self.train = train
        self.optimizer = optimizer
        self.validation = validation
        self.mask_loader = mask_loader
        self.mask_batches = endless(mask_loader, "mask") if mask_loader is not None else None
        self.lr_scheduler = lr_scheduler
        self.options = options
        self.total = planned_steps(host.total_steps, options.epochs, train)
        self.history: list[HistoryRow] = []
        self.snapshots = BestSnapshot()
        self.evaluation_passes = 0
        self.stream: ValidationStream | None = None
        self._loss_mean = math.nan

    def execute(self) -> FitResult:
        """Trains, removes, recalibrates, judges."""
        host = self.host
        host.plan(self.total)
        every = self.options.validate_every or max(1, self.total // 20)
        for name, loader in (("validation", self.validation), ("mask", self.mask_loader)):
            check_walkable(loader, name)
        check_optimizer(self.optimizer, self.lr_scheduler, host.model)
        check_loader(self.train, host.model, host.lagrangian, split=TRAIN, limit=self.total)
        if self.validation is not None:
            check_loader(self.validation, host.model, host.lagrangian, split=VALIDATION)
        if host.engine.step_index == 0:
            host.dense_record = (self._measure_dense(), host.size())
        elif host.dense_record is None:
            raise TrainingStateError(
                f"fit() starts from the dense model, but {host.engine.step_index} training steps were taken already in a "
                "loop of your own: finish that loop, or build a new pruner on a dense model"
            )
        before, dense = host.dense_record  # of the first call, if an interrupted run is continued
        if self.validation is not None and host.lagrangian.constraints:
            host.lagrangian.driver = VALIDATION
            window = _length(self.validation) or host.lagrangian.config.window
            self.stream = ValidationStream(
                self.validation, window=window, every=self.options.dual_every, forward=self.options.forward
            )
        bar = tqdm(
            total=self.total,
            desc="BiFP",
            unit="step",
            disable=not self.options.progress,
            dynamic_ncols=True,
        )
        with bar, mode(host.model, training=True):
            for batch in self._training_batches():
                self._train_step(batch)
                bar.update()
                if host.engine.finished and host.rounds_left() > 1:
                    self._between_rounds()
                if (host.engine.step_index % every == 0 or host.engine.step_index == self.total) and (
                    self.validation is not None
                ):
                    bar.set_postfix(self._validate())
        return self._finish(before, dense)

    def _training_batches(self) -> Iterator[Batch]:
        engine = self.host.engine
        batches = endless(self.train, TRAIN)
        while engine.step_index < self.total:
            separate = self.mask_batches is not None and engine.timetable.learns_mask(engine.phase_step)
            source = self.mask_batches if separate and self.mask_batches is not None else batches
            yield read_batch(next(source), self.host.model)

    def _train_step(self, batch: Batch) -> None:
        host = self.host
        host.model.zero_grad()  # not the optimizer's: it may hold only part of the parameters
        try:
            loss = host.loss(self.options.forward(host.model, batch.inputs), batch.targets, batch.sensitive)
        except NonFiniteError:
            self._keep_last_good()
            raise
        loss.backward()  # type: ignore[no-untyped-call]
        host.regularize(host.model)
        self.optimizer.step()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        value = float(loss.detach())
        self._loss_mean = value if math.isnan(self._loss_mean) else 0.95 * self._loss_mean + 0.05 * value
        if self.stream is not None and host.engine.step_index % self.options.dual_every == 0:
            self.stream.dual_step(host.model, host.lagrangian)
            self.evaluation_passes += 1

    def _validate(self) -> dict[str, str]:
        """Evaluates on validation, records it, and offers a snapshot once the target sparsity is reached."""
        assert self.validation is not None
        host, engine = self.host, self.host.engine
        evaluation = self._evaluate(self.validation, VALIDATION)
        row = HistoryRow(
            step=engine.step_index,
            progress=engine.progress(),
            loss=self._loss_mean,
            accuracy=evaluation.accuracy,
            gaps=tuple(verdict.gap for verdict in evaluation.verdicts),
            multipliers=tuple(
                tuple(tracker.multipliers.value.reshape(-1).tolist()) for tracker in host.lagrangian.trackers
            ),
            feasible=evaluation.feasible,
        )
        self.history.append(row)
        if self.options.on_evaluation is not None:
            self.options.on_evaluation(row)
        if engine.at_target and host.rounds_left() == 1:
            self.snapshots.offer(host.model, engine.weights.keep, evaluation, engine.step_index)
        gaps = "/".join(f"{gap:.3f}" for gap in row.gaps) or "-"
        return {"acc": f"{row.accuracy:.3f}", "gap": gaps, "pruned": f"{row.progress:.0%}"}

    def _between_rounds(self) -> None:
        self.host.remove_round()
        self.optimizer = self.host.rebuild_optimizer(self.optimizer)
        if self.lr_scheduler is not None:
            for scheduler in (self.lr_scheduler, *getattr(self.lr_scheduler, "_schedulers", ())):
                scheduler.optimizer = self.optimizer

    def _keep_last_good(self) -> None:
        """Weights may have gone bad a step before the loss did; then the best snapshot takes their place."""
        bad = any(not bool(torch.isfinite(p).all()) for p in self.host.model.parameters())
        if bad and self.snapshots.best is not None:
            self.snapshots.restore(self.host.model)

    def _finish(self, before: Evaluation, dense: Size) -> FitResult:
        host = self.host
        split = self.validation if self.validation is not None else self.train
        name = VALIDATION if self.validation is not None else TRAIN
        if self.snapshots.best is not None:
            self.snapshots.restore(host.model)
        host.remove_round()
        optimizer = host.rebuild_optimizer(self.optimizer)
        after = self._evaluate(split, name)
        after = self._recalibrated(split, name, after)
        return FitResult(
            model=host.model,
            optimizer=optimizer,
            before=before,
            after=after,
            dense=dense,
            pruned=host.size(),
            feasible=after.feasible,
            message=_message(after, chosen=self.snapshots.best is not None),
            history=self.history,
            passes=host.engine.passes,
            evaluation_passes=self.evaluation_passes,
        )

    def _recalibrated(self, split: Iterable[Any], name: str, after: Evaluation) -> Evaluation:
        """Fresh batch-norm statistics, kept only if the model is no worse with them."""
        if self.options.recalibration_batches < 1:
            return after
        buffers = [buffer.clone() for buffer in self.host.model.buffers()]
        recalibrate_batch_norm(
            self.host.model,
            self.train,
            batches=self.options.recalibration_batches,
            forward=self.options.forward,
        )
        fresh = self._evaluate(split, name)
        if rank(fresh) >= rank(after):
            return fresh
        with torch.no_grad():
            for buffer, saved in zip(self.host.model.buffers(), buffers, strict=True):
                buffer.copy_(saved)
        return after

    def _measure_dense(self) -> Evaluation:
        """Dense rates of every split a constraint will be compared on, and the "before" of the report."""
        lagrangian, model = self.host.lagrangian, self.host.model
        forward = self.options.forward
        relative = any(constraint.relative_to_dense for constraint in lagrangian.constraints)
        train = None
        if relative or self.validation is None:
            train = evaluate(model, self.train, lagrangian, split=TRAIN, forward=forward, dense=True)
        if self.validation is None:
            assert train is not None
            return train
        return evaluate(model, self.validation, lagrangian, split=VALIDATION, forward=forward, dense=True)

    def _evaluate(self, loader: Iterable[Any], split: str) -> Evaluation:
        self.evaluation_passes += _length(loader) or 0
        return evaluate(self.host.model, loader, self.host.lagrangian, split=split, forward=self.options.forward)


def check_walkable(loader: Iterable[Any] | None, name: str) -> None:
    """Refuses what cannot be walked more than once, before training does it.

    Raises:
        DataError: For a generator or an empty loader.
    """
    if loader is not None and (isinstance(loader, Iterator) or _length(loader) == 0):
        raise DataError(
            f"the {name} loader is empty or a generator: pass something that can be iterated again and again, such as "
            "a DataLoader or a list of batches, not a generator"
        )


def check_optimizer(optimizer: torch.optim.Optimizer, lr_scheduler: Any, model: nn.Module) -> None:
    """Refuses an optimizer of another model, and a scheduler that cannot be stepped without a metric.

    Raises:
        ConfigError: Saying which.
    """
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ConfigError(
            "the optimizer holds none of this model's parameters, so nothing would be trained: build it from "
            "model.parameters() of the model that was passed to the pruner"
        )
    if isinstance(lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(
            "fit() steps the scheduler once per training step and has no metric for ReduceLROnPlateau: pass a "
            "schedule over steps, such as CosineAnnealingLR(optimizer, total_steps)"
        )


def planned_steps(total_steps: int | None, epochs: int | None, train: Iterable[Any]) -> int:
    """Number of training steps, from whichever was given.

    Raises:
        ConfigError: If neither was, if both disagree, or if a loader without a length is to give epochs.
    """
    if epochs is None:
        if total_steps is None:
            raise ConfigError("how long to train is unknown: pass epochs to fit() or total_steps to the pruner")
        return total_steps
    if not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"expected epochs as a positive whole number, got {epochs!r}")
    length = _length(train)
    if length is None:
        raise ConfigError("the training loader has no length: pass total_steps to the pruner instead of epochs")
    steps = epochs * length
    if total_steps is not None and total_steps != steps:
        raise ConfigError(
            f"epochs={epochs} of {length} batches are {steps} steps, but total_steps={total_steps}: give one of them"
        )
    return steps


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def _message(after: Evaluation, *, chosen: bool) -> str:
    """One paragraph: does the constraint hold, by how much, and is there a catch."""
    if not after.verdicts:
        return "No constraint was asked for."
    parts = [
        f"{v.constraint}: gap {v.gap:.4f} (±{v.half_width:.4f}) against a tolerance of {v.tolerance:g}, {v.status}"
        for v in after.verdicts
    ]
    head = f"On the {after.split} data the gap is within the tolerance"
    if all(verdict.status == SATISFIED for verdict in after.verdicts):
        head = f"On the {after.split} data the constraint holds"
    if not after.feasible and not chosen:
        head = (
            f"NOT FEASIBLE: the model does not meet the constraint on the {after.split} data (no validation data, so "
        )
        head += "no other moment of the run was looked at)"
    elif not after.feasible:
        head = (
            f"NOT FEASIBLE: no model at the target size met the constraint on the {after.split} data; this is the "
            "nearest one found"
        )
    catch = ""
    if after.degenerate:
        catch = (
            " DEGENERATE: the model predicts the same class for everybody, which is equal and useless; prune less, "
            "train longer, widen the tolerance, or use target='params'."
        )
    return f"{head}. {'; '.join(parts)}.{catch}"
