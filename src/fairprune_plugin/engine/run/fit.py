"""The whole run in one call: train weights and mask, keep the best feasible model, remove its channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...errors import ConfigError, NonFiniteError, TrainingStateError
from ...fairness.lagrangian import TRAIN, VALIDATION
from ..data_parallel import refuse_different_settings, wrap
from ..loaders.batch_stream import BatchStream
from ..loaders.batches import Batch, check_iterable, read_batch
from ..loaders.census import check_loader
from ..loaders.folds import Folds
from ..measure.evaluate import mode
from ..results.history import history_row
from ..results.metrics import step_row
from ..results.result import FitResult, HistoryRow
from ..results.snapshots import BOTH as SELECT_BOTH
from ..results.snapshots import BestSnapshot
from .checkpoints import RunCheckpoints
from .evaluation import RunEvaluation
from .finish import finish
from .hyper_parameters import hyper_parameters
from .interrupt import deferred_interrupt
from .options import FitOptions, Host
from .preflight import (
    BOTH,
    FOLDS,
    check_held_out,
    check_optimizer,
    check_options,
    check_schedule,
    check_walkable,
    driver_of,
    length,
    planned_steps,
)
from .running_mean import RunningMean
from .schedule_free import averaged, begin_hidden, check_schedule_free, to_average, to_training_point
from .state import settings_of
from .trained_beside import average_gradients, parameters_beside, share_parameters
from .validation_stream import ValidationStream


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
        check_options(options)
        check_iterable(train, TRAIN)
        self.host = host
        self.train = train
        self.optimizer = optimizer
        self.validation = validation
        self.mask_loader = mask_loader
        if mask_loader is not None and host.engine.config.joint:
            raise ConfigError(
                "mask_loader has batches for mask steps alone, but with joint=True every such step moves the weights as "
                "well: leave mask_loader out, or give the mask steps of its own with bilevel={'joint': False}"
            )
        self.mask_batches = BatchStream.over(mask_loader, "mask") if mask_loader is not None else None
        self.lr_scheduler = lr_scheduler
        self.options = options
        self.total = planned_steps(host.total_steps, options.epochs, train)
        self.every = options.validate_every or max(1, self.total // 20)
        self.history: list[HistoryRow] = []
        self.driver = driver_of(options, validation)
        self.folds = Folds(train, options.folds) if self.driver == FOLDS else None
        self.snapshots = BestSnapshot(options.select_by)
        self.evaluation = RunEvaluation(host, train, validation, options.forward, total=self.total)
        self.stream: ValidationStream | None = None
        if self.folds is None:
            self.batches = BatchStream.over(train, TRAIN)
        else:
            self.batches = BatchStream.beside_folds(self.folds, self._hold_out)
        self.loss_mean = RunningMean()
        self.ranks = host.lagrangian.ranks
        self.checkpoints = RunCheckpoints(options.checkpoint_dir, self.ranks)
        self.trained: nn.Module = host.model
        self.beside: list[Tensor] = []
        self.hyper_parameters: dict[str, Any] = {}

    def execute(self) -> FitResult:
        """Trains, removes, recalibrates, judges.

        Raises:
            ConfigError: Also while another run writes its checkpoints into the same folder.
        """
        with self.checkpoints:
            return self._execute()

    def _execute(self) -> FitResult:
        host = self.host
        refuse_different_settings(self.ranks.collect(self._checked))
        self._drive_multipliers()
        if not self.checkpoints.resume(self):
            self._prepare()
        share_parameters(self.beside, self.ranks)
        assert host.dense_record is not None
        before, dense = host.dense_record  # of the first call, if an interrupted run is continued
        self._wrap()
        done, quiet = host.engine.step_index, not (self.options.progress and self.ranks.first)
        with (
            tqdm(total=self.total, initial=done, desc="BiFP", unit="step", disable=quiet, dynamic_ncols=True) as bar,
            mode(host.model, training=True),
        ):
            self._train(bar)
        return finish(self, before, dense)

    def _checked(self) -> dict[str, Any]:
        """Looks at everything that was given, and returns what must be the same on all ranks."""
        self.host.plan(self.total)
        for name, loader in ((TRAIN, self.train), ("validation", self.validation), ("mask", self.mask_loader)):
            check_walkable(loader, name)
        check_held_out(self.train, self.validation, self.options)
        check_optimizer(self.optimizer, self.lr_scheduler, self.host.model)
        check_schedule_free(self.optimizer)
        self.beside = parameters_beside(self.optimizer, self.host.model)
        self.hyper_parameters = hyper_parameters(self.optimizer, self.lr_scheduler)
        return settings_of(self)

    def _wrap(self) -> None:
        """What training steps run: the model as it is now, under data parallelism if there are several ranks."""
        self.trained = self.host.model  # an old wrapper goes first
        self.trained = wrap(self.host.model, self.ranks, self.options.wrap)

    def _prepare(self) -> None:
        """Looks at the data and at the dense model, before the first step."""
        host = self.host
        check_schedule(self.lr_scheduler, self.total)
        check_loader(self.train, host.model, host.lagrangian, split=TRAIN, limit=self.total)
        if self.validation is not None:
            check_loader(self.validation, host.model, host.lagrangian, split=VALIDATION)
        if host.engine.step_index == 0:
            with averaged(self.optimizer, host.engine.weights):
                host.dense_record = (self.evaluation.of_dense_model(), host.size())
        elif host.dense_record is None:
            raise TrainingStateError(
                f"fit() starts from the dense model, but {host.engine.step_index} training steps were taken already in a "
                "loop of your own: finish that loop, or build a new pruner on a dense model"
            )
        to_training_point(self.optimizer, host.engine.weights)
        self.checkpoints.write(self)

    def _train(self, bar: Any) -> None:
        """All steps that are left. With a checkpoint folder, Ctrl-C waits for the end of a step (of all ranks) and then
        interrupts."""
        engine = self.host.engine
        checkpointing = self.checkpoints.wanted
        with deferred_interrupt(checkpointing) as interrupt:
            for batch in self._training_batches():
                if not self.host.model.training:  # a hook that judged the model by itself left it so
                    self.host.model.train()
                self._train_step(batch)
                bar.update()
                last = engine.step_index == self.total
                if not last and self._removal_is_due():
                    self._remove()
                if self.validation is not None and (engine.step_index % self.every == 0 or last):
                    with averaged(self.optimizer, engine.weights):
                        bar.set_postfix(self._validate())
                often = self.options.checkpoint_every or self.every
                stop = checkpointing and self.ranks.any(interrupt.requested)  # all ranks after the same step
                if stop or last or engine.step_index % often == 0:
                    self.checkpoints.write(self)
                if stop:
                    raise KeyboardInterrupt

    def _drive_multipliers(self) -> None:
        """By validation data, by held-out folds, or (nothing to do) by training counts."""
        lagrangian = self.host.lagrangian
        held_out = self.validation if self.folds is None else self.folds.split(0)[1]
        if self.driver == TRAIN or held_out is None or not lagrangian.constraints:
            return
        lagrangian.driver = VALIDATION
        self.stream = ValidationStream(
            held_out,
            window=length(held_out) or lagrangian.config.window,
            every=self.options.dual_every,
            forward=self.options.forward,
            split=TRAIN if self.driver == FOLDS else VALIDATION,
            and_training=self.driver == BOTH,
        )

    def _hold_out(self, batches: Iterable[Any]) -> None:
        if self.stream is not None:
            self.stream.switch(batches)

    def _training_batches(self) -> Iterator[Batch]:
        engine = self.host.engine
        while engine.step_index < self.total:
            separate = self.mask_batches is not None and engine.timetable.learns_mask(engine.phase_step)
            source = self.mask_batches if separate and self.mask_batches is not None else self.batches
            yield read_batch(next(source), self.host.model)

    def _train_step(self, batch: Batch) -> None:
        host = self.host
        # The optimizer may hold only part of the model's parameters, and parameters of a task loss beside them.
        host.model.zero_grad()
        self.optimizer.zero_grad()
        try:
            loss = host.loss(self.options.forward(self.trained, batch.inputs), batch.targets, batch.sensitive)
        except NonFiniteError:
            self._keep_last_good()
            raise
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.beside, self.ranks)
        host.regularize(self.trained)
        begins = not any(self.optimizer.state.values())
        self.optimizer.step()
        if begins:
            begin_hidden(self.optimizer, host.engine.weights)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self.loss_mean.update(loss)
        if self.stream is not None and host.engine.step_index % self.options.dual_every == 0:
            with averaged(self.optimizer, host.engine.weights):
                self.stream.dual_step(host.model, host.lagrangian)
            self.evaluation.passes += 1
        for metrics in self.options.metrics if self.ranks.first else ():
            metrics.on_step(step_row(host.engine, loss))

    def _validate(self) -> dict[str, str]:
        """Evaluates on validation, records it, and offers a snapshot once the target sparsity is reached."""
        host, engine = self.host, self.host.engine
        evaluation = self.evaluation.held_out()
        mean_loss = float(self.ranks.mean(torch.tensor(self.loss_mean.value, dtype=torch.float64)))
        row = history_row(engine, evaluation, loss=mean_loss, last_round=host.rounds_left() <= 1)
        self.history.append(row)
        if self.options.on_evaluation is not None and self.ranks.first:
            self.options.on_evaluation(row)
        for metrics in self.options.metrics if self.ranks.first else ():
            metrics.on_evaluation(row)
        if row.at_target and self.snapshots.could_win(evaluation):
            over = self.evaluation.training_excess() if self.snapshots.rule(evaluation) == SELECT_BOTH else 0.0
            self.snapshots.offer(host.model, engine.weights.keep, evaluation, engine.step_index, training_excess=over)
        gaps = "/".join(f"{gap:.3f}" for gap in row.gaps) or "-"
        return {"acc": f"{row.accuracy:.3f}", "gap": gaps, "pruned": f"{row.progress:.0%}"}

    def _removal_is_due(self) -> bool:
        """At the end of every round but the last, whose channels may go as soon as nothing moves the mask any more."""
        engine, rounds = self.host.engine, self.host.rounds_left()
        if rounds > 1:
            return engine.finished
        return self.options.remove_early and rounds == 1 and engine.at_target

    def _remove(self) -> None:
        """Channels go in the middle of the run, which goes on with a smaller model."""
        with deferred_interrupt(True):
            self.host.remove_round()
            self.host.rebuild_optimizer(self.optimizer)
        self._wrap()

    def _keep_last_good(self) -> None:
        """Weights may have gone bad a step before the loss did; then the best snapshot takes their place."""
        bad = any(not bool(torch.isfinite(p).all()) for p in self.host.model.parameters())
        if bad and self.snapshots.best is not None:
            to_average(self.optimizer, self.host.engine.weights)
            self.snapshots.restore(self.host.model)
