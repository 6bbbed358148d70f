"""BiFP as an NNI pruner: the host's wrappers, evaluator and config_list, the engine's masks and constraint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nni.compression.base.compressor import register_scalers
from nni.compression.pruning.scheduled_pruner import ScheduledPruner
from torch import Tensor, nn

from ..engine.bilevel import BiLevelEngine
from ..engine.config import BiLevelConfig
from ..engine.loaders.batches import Forward
from ..engine.loaders.census import check_loader
from ..engine.scores import MaskScores
from ..engine.settings import bilevel_config, lagrangian_of
from ..errors import ConfigError, TrainingStateError
from ..fairness.constraint import Constraint
from ..fairness.lagrangian import VALIDATION
from ..fairness.multipliers import UNKNOWN_LENGTH, MultiplierConfig
from ..masks.masked_weights import MaskedWeights
from ..masks.saliency import group_magnitude
from ..warn import warn_caller
from . import config_list as configs
from .capture import Field
from .compressors import target_count
from .evaluator_checks import check_evaluator
from .goals import SparseGoals
from .graph import as_config_error, check_unwrapped
from .measuring import Measuring
from .ramp import check_length, check_steps
from .schedule import Schedule
from .steps import Fields, HeldOut, TrainingSteps, Triples, unbound_on_error
from .structured import graph_if_traceable
from .units import Units
from .wrapper_masks import WrapperMasks


class BiFPPruner(Measuring, ScheduledPruner):  # type: ignore[misc]
    """Fairness-constrained bi-level pruning (BiFP, arXiv 2312.10181) as a scheduled pruner of NNI.

    Weights and mask are learned together while the evaluator trains; the user's own loss (that of
    ``training_step``) is the task loss, to which the constraint's penalty is added.

    Args:
        model: To be pruned; trained in place.
        config_list: NNI's, with its meaning; ``granularity`` also takes ``"unstructured"`` and ``"N:M"``.
        evaluator: That trains the model.
        warmup_step: Optimizer steps before anything is hidden; default ``bilevel.warmup`` of ``max_steps``.
        cooldown_begin_step: Optimizer steps after which the goals are reached and the mask stays; default
            ``bilevel.ramp_end`` of ``max_steps``. Needed where ``max_steps`` is not this pruner's to see: with
            epochs, and if it is trained by another compressor's ``compress()``. Inside an ``AGPPruner`` or
            ``LinearPruner`` both follow that one.
        constraint: One, several (each about groups of its own) or none.
        sensitive: ``batch → group ids``; needed with a constraint.
        targets: ``batch → labels``; default ``batch["labels"]`` or ``batch[1]``.
        logits: Output of the model → logits, in training and wherever the model is judged; default the output, its
            ``logits``, or its first item.
        bilevel: Settings of the alternation, as :class:`~..engine.config.BiLevelConfig` or a dict.
        multipliers: Settings of the multipliers, as :class:`~..fairness.multipliers.MultiplierConfig` or a dict.
        validation: Held-out batches of the same form, which then move the multipliers; default: the counts of the
            training batches.
        dual_every: Optimizer steps between two of them.
        forward: ``(model, inputs) → logits`` for them; inputs are the first item of a batch, or all of a mapping.
            Default: the model is called with them, and ``logits`` picks from its output.
        dummy_input: For tracing which channels go together; default that of ``configure_structured``, else the
            evaluator's, as far as the model runs on it. Without one, rows are masked as NNI's own pruners mask them.
        existed_wrappers: Of another compressor; :meth:`from_compressor` passes them.

    Raises:
        ConfigError: For arguments that cannot work, before any training; also for a ``config_list`` in conflict with
            the graph of ``dummy_input``, naming the layers.
        UnsupportedModelError: If that graph cannot be built, a layer or group norm crosses its channels, or a channel
            masked where it is read is not one whose row is masked (tried on a copy).
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        evaluator: Any,
        warmup_step: int | None = None,
        cooldown_begin_step: int | None = None,
        *,
        constraint: Constraint | Sequence[Constraint] | dict[str, Any] | str | None = None,
        sensitive: Field | None = None,
        targets: Field | None = None,
        logits: Field | None = None,
        bilevel: BiLevelConfig | dict[str, Any] | None = None,
        multipliers: MultiplierConfig | dict[str, Any] | None = None,
        validation: Iterable[Any] | None = None,
        dual_every: int = 2,
        forward: Forward | None = None,
        dummy_input: Any = None,
        existed_wrappers: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"expected an nn.Module to prune, got {type(model).__name__}")
        check_unwrapped(model, "BiFPPruner")
        configs.check(model, config_list)
        self.config = bilevel_config(bilevel)
        self.lagrangian = lagrangian_of(constraint, multipliers, None)
        self.fields = Fields(sensitive, targets, logits)
        self._held_out = None if validation is None else HeldOut(validation, dual_every, forward)
        if self.lagrangian.constraints and not callable(sensitive):
            raise ConfigError(
                f"a constraint needs sensitive=…, a function of the batch such as lambda batch: batch[2], got {sensitive!r}"
            )
        check_steps(warmup_step, cooldown_begin_step)
        with as_config_error("the evaluator (are its optimizers made by nni.trace?)"):
            check_evaluator(evaluator, model)
        if dummy_input is None:
            dummy_input = getattr(config_list, "dummy_input", None)
        graph = graph_if_traceable(model, config_list, dummy_input, evaluator)
        with as_config_error("the config_list"):
            super().__init__(model, config_list, evaluator, existed_wrappers)
            self._init_sparse_goals()
        self.warmup_step, self.cooldown_begin_step = warmup_step, cooldown_begin_step
        self.interval_steps = 1
        self._total_times = max((cooldown_begin_step or 0) - (warmup_step or 0), 1)
        self._schedule = Schedule(self)
        self._channel_graph = graph
        try:
            self._bind_weights()
        except ConfigError:
            self.unwrap_model()
            raise
        self.engine: BiLevelEngine | None = None
        self._done = False
        self._targets = target_count(self.bound_model)

    def _bind_weights(self) -> None:
        """Reads the live parameters; a compressor that wraps a layer later on makes new ones."""
        self.units = Units(self.bound_model, self._module_wrappers, self._target_spaces, self._channel_graph)
        self.weights = MaskedWeights(self.units.groups)
        self.goals = SparseGoals(self.units, self.weights.offsets, self.config.cost_exponent)
        self._masks = WrapperMasks(self.units, self.weights)

    @classmethod
    def from_compressor(
        cls,
        compressor: Any,
        new_config_list: list[dict[str, Any]],
        warmup_step: int | None = None,
        cooldown_begin_step: int | None = None,
        *,
        evaluator: Any = None,
        **options: Any,
    ) -> BiFPPruner:
        """After (and, until that one is trained, together with) another compressor, on targets it has not configured.

        Args:
            compressor: Its model, wrappers and (if it has one) evaluator are taken over.
            new_config_list: Of this pruner.
            warmup_step: As in the constructor.
            cooldown_begin_step: As in the constructor.
            evaluator: If the other compressor has none.
            **options: Further arguments of the constructor.

        Raises:
            ConfigError: If a ``BiFPPruner`` among the other compressors is not trained yet: two cannot train together.
        """
        others = [getattr(other, "bound_pruner", other) for other in compressor.fused_compressors]
        if any(isinstance(other, BiFPPruner) and not other._done for other in others):
            raise ConfigError(
                "two BiFPPruners cannot be trained together, and the one given has not been trained: call its compress() "
                "first, or put all layers into one config_list"
            )
        steps = {"warmup_step": warmup_step, "cooldown_begin_step": cooldown_begin_step}
        pruner: BiFPPruner = super().from_compressor(
            compressor, new_config_list, evaluator=evaluator, **steps, **options
        )
        return pruner

    # ---- NNI's contract ------------------------------------------------------------------------------------

    @property
    def total_times(self) -> int:
        """Times the goals move; set by an ``AGPPruner`` or ``LinearPruner`` around this pruner, whose goals count."""
        return self._total_times

    @total_times.setter
    def total_times(self, times: int) -> None:
        self._total_times = times
        self._schedule.driven = True

    def _validate_config(self) -> None:
        configs.validate(self.config_list)

    def _register_scalers(self) -> None:
        """NNI's, except for granularities of ours, which have one unit per weight and need no scaler."""
        own = (configs.UNSTRUCTURED,)
        spaces = {
            module: {
                name: space
                for name, space in targets.items()
                if space.granularity not in own and not configs.read_pattern(space.granularity)
            }
            for module, targets in self._target_spaces.items()
        }
        register_scalers(spaces, self._set_default_sparse_granularity)

    def update_sparse_goals(self, current_times: int) -> None:
        """Sets the goals to what is due after ``current_times`` of the ``total_times`` steps of the ramp."""
        timetable = self._schedule.timetable()
        self._update_sparse_goals_by_ratio(timetable.progress(timetable.ramp_begin + current_times - 1))

    def compress(self, max_steps: int | None, max_epochs: int | None) -> tuple[nn.Module, dict[str, Any]]:
        """Trains weights and mask; returns the wrapped model and NNI's masks.

        Args:
            max_steps: Optimizer steps of the run; or
            max_epochs: epochs, with ``cooldown_begin_step`` given to the constructor.

        Raises:
            ConfigError: If the run is shorter than the schedule, or its length is no positive whole number.
            TrainingStateError: If the evaluator's training ended before the goals were reached, or this pruner has
                been through a run before.
            DataError: For held-out data without samples or with one group only, before training.

        Warns:
            FairPruneWarning: If held-out data lack a group, or samples that a rate conditions on; if training ended
                between the goals and ``max_steps``: the masks are final by then, the weights have settled for fewer steps
                than asked; or if every batch that would have taught the mask was left out.
        """
        self._check_untrained()
        check_length(max_steps, max_epochs)
        with self._schedule.own_run(max_steps):
            self._schedule.ramp()
            with unbound_on_error(self.evaluator):
                result: tuple[nn.Module, dict[str, Any]] = super().compress(max_steps, max_epochs)
        return result

    def _check_untrained(self) -> None:
        if self._done:
            raise TrainingStateError(
                "this pruner has been trained already: unwrap the model and build a new one, or continue with "
                "BiFPPruner.from_compressor(pruner, …) on other layers"
            )
        if self.engine is not None:
            raise TrainingStateError(
                "the last run of this pruner failed, and has left weights and masks as they were at that moment: unwrap "
                "the model, restore its weights, and build a new pruner"
            )

    def _single_compress(self, max_steps: int | None, max_epochs: int | None) -> None:
        self._fusion_compress(max_steps, max_epochs)

    def _fuse_preprocess(self, evaluator: Any) -> None:
        # Another compressor may go on with the model: the masks are final and NNI applies them. A second run of the pruner
        # around this one, with no other compressor, would train without mask and constraint.
        if self._done and target_count(self.bound_model) > self._targets:
            return
        with unbound_on_error(evaluator):
            self._check_untrained()
            self._bind_weights()
            self._begin(evaluator)

    def _begin(self, evaluator: Any) -> None:
        """The engine, and what the evaluator calls in every step; before them a look at the held-out data."""
        if self._held_out is not None:
            held_out = Triples(self._held_out.loader, self.fields)
            check_loader(held_out, self.bound_model, self.lagrangian, split=VALIDATION)
        if not self._schedule.driven:
            self._update_sparse_goals_by_ratio(0.0)
        scores = MaskScores(group_magnitude(self.weights), self.config, self.units.single)
        self.engine = BiLevelEngine(
            self.bound_model,
            self.weights,
            self.lagrangian,
            self._project,
            self.config,
            scores,
            final_after_ramp=not self._schedule.driven,
        )
        self.engine.timetable = self._schedule.timetable()
        # The plan of the engine ends with the ramp here; multipliers move at the pace of the whole run.
        self.lagrangian.plan(self._schedule.max_steps or UNKNOWN_LENGTH)
        self._masks.begin_learning()
        self._seen_goals = self.goals.current()
        TrainingSteps(
            self.engine,
            self.bound_model,
            self.fields,
            self._held_out,
            mask_moved=self._masks.push,
            stepped=self._follow_goals,
        ).attach(evaluator)

    def _fuse_postprocess(self, evaluator: Any) -> None:
        if self._done:
            return
        with unbound_on_error(evaluator):
            self._finish()

    def _finish(self) -> None:
        engine = self._running()
        engine.lagrangian.checks.settle()
        steps, due = engine.step_index, self._schedule.timetable().ramp_end
        self._schedule.check_reached(steps, due)
        self._follow_goals()
        engine.norms.release()
        self._masks.push()
        self._masks.bake()
        self._done = True
        self._schedule.warn_if_short(steps, due)
        if engine.scores.updates == 0 and not bool(engine.weights.keep.all()):
            warn_caller(
                "no step taught the scores anything, as all of their batches were left out (training_step returned None): "
                "units went by their scores before training; let training_step return a loss"
            )

    # ---- goals ---------------------------------------------------------------------------------------------

    def _project(self, scores: Tensor, progress: float) -> Tensor:
        if not self._schedule.driven:
            self._update_sparse_goals_by_ratio(progress)
        self._seen_goals = self.goals.current()
        return self.goals.project(scores)

    def _follow_goals(self) -> None:
        """The mask follows goals that a pruner around this one has moved."""
        if not self._schedule.driven or self.goals.current() == self._seen_goals:
            return
        engine = self._running()
        engine.set_mask(self._project(engine.scores.value(), 1.0))
        self._masks.push()

    def _running(self) -> BiLevelEngine:
        assert self.engine is not None
        return self.engine
