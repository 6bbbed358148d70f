"""The pruner's part that runs whole trainings: ``fit``, ``measure_dense``, ``evaluate``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..engine.data_parallel import Wrap
from ..engine.loaders.batches import Forward, default_forward
from ..engine.loaders.census import discover_groups, read_labels
from ..engine.measure.evaluate import evaluate
from ..engine.measure.latency import latency_ms
from ..engine.measure.memory import peak_memory_bytes
from ..engine.results.metrics import Metrics, as_hooks
from ..engine.results.result import FitResult, Size
from ..engine.results.snapshots import AUTO
from ..engine.run.fit import Run
from ..engine.run.options import FitOptions, OnEvaluation
from ..errors import ConfigError, TrainingStateError
from ..fairness.evaluation import Evaluation
from ..fairness.lagrangian import TRAIN
from .state.saved_model import removal_record


class Training:
    """Mixed into :class:`~.pruner.BiFPPruner`."""

    def fit(
        self: Any,
        train_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        validation: Iterable[Any] | None = None,
        epochs: int | None = None,
        mask_loader: Iterable[Any] | None = None,
        lr_scheduler: Any = None,
        validate_every: int | None = None,
        dual_every: int = 2,
        recalibration_batches: int = 50,
        progress: bool = True,
        forward: Forward = default_forward,
        on_evaluation: OnEvaluation | None = None,
        select_by: str = AUTO,
        driver: str | None = None,
        folds: int = 5,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        wrap: Wrap | None = None,
        metrics: Metrics | Sequence[Metrics] | None = None,
        remove_early: bool = False,
    ) -> FitResult:
        """Trains weights and mask under the constraint, removes channels and returns the smaller model.

        With a validation loader, held-out data drive the multipliers and, with training data, choose the best feasible
        snapshot at the target sparsity; without one, training counts do and the last state is returned.

        Args:
            train_loader: Batches ``(x, y, s)``: inputs, class ids ``(N,)``, group ids ``(N,)``. Moved to the
                model's device.
            optimizer: Of ``model.parameters()``.
            validation: Held-out batches of the same form.
            epochs: Passes over ``train_loader``; needed unless ``total_steps`` was given to the pruner.
            mask_loader: Batches for mask steps of their own, with ``bilevel={"joint": False}`` only; default: the training
                batches.
            lr_scheduler: Its ``step()`` is called after every training step.
            validate_every: Steps between two evaluations; default a twentieth of the run.
            dual_every: Steps between two validation batches that move the multipliers.
            recalibration_batches: Training batches for fresh batch-norm statistics of the pruned model, kept
                only if validation is no worse; 0 leaves them alone.
            progress: Whether to show a progress bar.
            forward: ``(model, x) → logits``; default ``model(x)``, its ``.logits`` if there is one.
            on_evaluation: Called with each :class:`~..engine.results.result.HistoryRow`.
            select_by: Which snapshot is returned: one within the tolerance on validation data if there is any, then the
                most accurate less the excess over the tolerance: that of the validation ``"gap"``, that of ``"both"``
                this gap and the one on as many training batches (measured for moments that could be the best only), or
                that of the ``"upper_bound"``, validation gap plus 1.96 standard errors, which is then what has to be within
                the tolerance. ``"settled"``: the last one whose accuracy less the excess is within a standard error of the
                gap of the best; nothing is first for being within the tolerance. ``"auto"`` (default): ``"settled"`` if a
                constraint compares more than two groups, as the largest of several noisy differences is within a tolerance
                by luck, else ``"both"``.
            driver: Which data move the multipliers: ``"validation"`` (default if there is a loader), ``"train"``,
                ``"both"``: whichever is violated more, or ``"folds"``: parts of the training data that are held out in
                turn.
            folds: Number of those parts.
            checkpoint_dir: Folder for checkpoints, the newest two. If there is one in it, the run goes on from there: build
                the same model, optimizer and pruner, and call ``fit`` with the same arguments. The result is
                bit-identical to that of an uninterrupted run, as far as the order of batches follows from python's, NumPy's
                and torch's global random state and the loaders' ``generator``. Ctrl-C waits for the end of a training
                step, writes a checkpoint and interrupts; pressed again, it interrupts at once.
            checkpoint_every: Steps between two checkpoints; default: whenever validation is due.
            wrap: What puts the model into its data-parallel wrapper, such as ``lambda m: DistributedDataParallel(m, …)``;
                default: that, with torch's defaults, if there are several ranks. Called anew after channels were removed.
            metrics: One or several objects with ``on_step(row)`` and ``on_evaluation(row)``, such as
                :class:`~..writers.tensorboard.TensorBoardWriter`.
            remove_early: Remove the channels as soon as the mask is final (after ``ramp_end`` of the steps, by default a
                fifth) and not at the end, so that most of the run trains the smaller model. The same up to rounding, and
                quicker; what holds the model's or the optimizer's old tensors from then on (an average of the weights, a
                hook on the optimizer) is left behind.

        Under data parallelism every rank calls ``fit`` with its own loaders and the same settings; the first one shows
        progress, writes checkpoints and calls ``on_evaluation`` and ``metrics``, and the results are the same on all.

        Raises:
            ConfigError: If the length of the run is unknown or contradictory.
            DataError: If the data cannot carry the constraint (seen before any training), or a batch is bad.
            NonFiniteError: If the loss becomes NaN or infinite; that batch has changed nothing. Weights that had gone bad in
                the step before give way to those of the best moment so far, if there was one at the target size.
            TrainingStateError: If all rounds of this pruner are done, or there are checkpoints and none can be used.
            PeerError: If another rank of a data-parallel run failed.
        """
        if self._sharded is not None:
            raise ConfigError(
                "fit() trains the pruner's own model, whole on every rank, and not the sharded copy that was attached: its "
                "snapshots and checkpoints are of whole weights; train the copy in a loop of your own (loss, backward, "
                "regularize, optimizer.step), or fit() without attach()"
            )
        options = FitOptions(
            epochs=epochs,
            validate_every=validate_every,
            dual_every=dual_every,
            recalibration_batches=recalibration_batches,
            progress=progress,
            forward=forward,
            on_evaluation=on_evaluation,
            select_by=select_by,
            driver=driver,
            folds=folds,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every=checkpoint_every,
            wrap=wrap,
            metrics=as_hooks(metrics),
            remove_early=remove_early,
        )
        return Run(self, train_loader, optimizer, validation, mask_loader, lr_scheduler, options).execute()

    def discover_groups(self: Any, loader: Iterable[Any]) -> tuple[str, ...]:
        """Reads groups that the constraint leaves to the data off a loader; needed once, before the first
        :meth:`loss` of a loop of your own (under data parallelism on every rank). Returns the names of all groups."""
        discover_groups(self.lagrangian, read_labels(loader, self.engine.model, TRAIN, ranks=self.lagrangian.ranks))
        return tuple(name for groups in self.lagrangian.groupings for name in groups.names)

    def measure_dense(
        self: Any, loader: Iterable[Any], *, split: str = TRAIN, forward: Forward = default_forward
    ) -> Evaluation:
        """Takes the dense model's rates on a split, which degradation parity compares with; call it before
        training in a loop of your own, once for every split you will evaluate on (under data parallelism on every
        rank).

        Raises:
            TrainingStateError: Once training has begun: the model is no longer the dense one.
        """
        if self.engine.step_index or self.current_step:
            raise TrainingStateError(
                f"measure_dense() came after {self.engine.step_index} training steps: the model is not the dense one any "
                "more; measure every split before training"
            )
        evaluation: Evaluation = self._evaluate(loader, split=split, forward=forward, dense=True)
        return evaluation

    def evaluate(
        self: Any,
        loader: Iterable[Any],
        *,
        split: str = "test",
        forward: Forward = default_forward,
        across_ranks: bool = True,
    ) -> Evaluation:
        """Accuracy, per-group rates and verdicts of the model as it is now, on any split.

        Args:
            loader: Batches ``(x, y, s)``.
            split: Its name.
            forward: ``(model, x) → logits``.
            across_ranks: Under data parallelism, whether all ranks call this with a part of the split each (or all of it)
                and get the evaluation of the whole; if not, each looks at its own loader, and one alone may.
        """
        evaluation: Evaluation = self._evaluate(loader, split=split, forward=forward, across_ranks=across_ranks)
        return evaluation

    def _evaluate(self: Any, loader: Iterable[Any], *, across_ranks: bool = True, **options: Any) -> Evaluation:
        """Of what is trained."""
        sharded, ranks = self._sharded is not None, self.lagrangian.ranks
        if sharded and not across_ranks:
            raise ConfigError(
                "a sharded model cannot be evaluated by one rank alone: call evaluate(loader) on every rank, or "
                "pruner.gather() on every rank and then look at the pruner's own model"
            )
        return evaluate(
            self.engine.model,
            loader,
            self.lagrangian,
            across_ranks=across_ranks,
            in_step=sharded and ranks.size > 1,
            **options,
        )

    def remove_round(self: Any) -> None:
        """``step()`` without its options, for the run."""
        self.step()

    def removal_record(self: Any) -> dict[str, Any]:
        """How channels were removed, for :func:`~.state.saved_model.save_pruned`."""
        return removal_record(self)

    def rounds_left(self: Any) -> int:
        """Rounds of removal that are still to come."""
        return int(self.iterative_steps - self.current_step)

    def size(self: Any) -> Size:
        """Channels, parameters, MACs, latency and peak memory of the model as it is now."""
        macs, params = self.count()
        channels = sum(group.channels.num_units * group.channels.channels_per_unit for group in self.host_groups)

        def run() -> Any:
            return self._example.run(self.model)

        return Size(channels, params, macs, latency_ms(self.model, run), peak_memory_bytes(self.model, run))
