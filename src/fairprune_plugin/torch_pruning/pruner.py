"""BiFP as a Torch-Pruning pruner: the host's graph and options, the engine's masks and constraint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ..checks import flag, function, whole_number
from ..distributed import Ranks
from ..engine.bilevel import BiLevelEngine
from ..engine.config import BiLevelConfig
from ..engine.data_parallel import refuse_join, share_buffers
from ..engine.loss_scaling import Optimizers, unscale
from ..engine.optimizers import rebuild
from ..engine.results.result import Size
from ..engine.run.interrupt import deferred_interrupt
from ..engine.scores import MaskScores
from ..engine.settings import bilevel_config, lagrangian_of
from ..errors import ConfigError, TrainingStateError
from ..fairness.constraint import Constraint
from ..fairness.evaluation import Evaluation
from ..fairness.lagrangian import TaskLoss
from ..fairness.multipliers import MultiplierConfig
from . import arguments
from .channels.consistency import check_given, check_parameters, layers_of
from .channels.example import Example
from .channels.found_groups import FindsGroupsOnce
from .channels.graph import build_graph
from .channels.grouping import HostGroup, find_group
from .channels.tracing import frozen_parameters, undisturbed
from .initial_scores import initial_scores
from .optimizer_steps import OptimizerSteps
from .removal.readiness import broken_off, check_ready
from .removal.removal import HeadDims, pruning_groups
from .removal.renewal import ParameterRenewal, Renewed
from .removal.rounds import begin_next_round, bind_groups, timetable_of_round
from .sharding import Sharding
from .size.budget import Budget
from .size.sizes import ModelSizes
from .state.state import Resumable
from .training import Training
from .trial.same_outputs import SameOutputs
from .trial.selfcheck import check_on_copies


class BiFPPruner(Training, Sharding, Resumable, FindsGroupsOnce, tp.pruner.BasePruner):  # type: ignore[misc]
    """Fairness-constrained bi-level channel pruning (BiFP, arXiv 2312.10181) in Torch-Pruning's own idiom.

    Use it like a sparse-training pruner: ``loss = pruner.loss(model(x), y, s)``, ``loss.backward()``,
    ``pruner.regularize(model)``, ``optimizer.step()`` for ``total_steps`` steps, then ``pruner.step()``; or let
    :meth:`fit` do all of it.

    Args:
        model: To be pruned; trained in place. Needs float32 parameters.
        example_inputs: For tracing, as in Torch-Pruning.
        importance: Optional Torch-Pruning importance whose values are the scores before the first mask step;
            default: the group magnitude. From then on scores are learned.
        constraint: One, several (each about groups of its own) or none: then it is plain bi-level pruning.
        total_steps: Training steps (calls of :meth:`regularize`) of the whole run; may be left to :meth:`fit`.
        target: What ``pruning_ratio`` is a share of: ``"channels"`` as in Torch-Pruning, ``"params"`` or
            ``"macs"``: then one global budget is shared out over all layers by score per cost.
        bilevel: Settings of the alternation, as :class:`~..engine.config.BiLevelConfig` or a dict.
        multipliers: Settings of the multipliers, as :class:`~..fairness.multipliers.MultiplierConfig` or a dict.
        task_loss: ``(logits, targets) → scalar``; default (binary) cross entropy.
        self_check: Try on a copy, before any training, whether the masked model equals the pruned one.
        process_group: Of the ranks that train this model together, as ``DistributedDataParallel`` takes it; default: all
            of them once ``torch.distributed`` is initialised. They count, score and mask as one, so that each must take
            every step.
        **host: Every other argument of ``tp.pruner.BasePruner`` (``pruning_ratio``, ``ignored_layers``,
            ``global_pruning``, ``round_to``, …), with its meaning there. ``max_pruning_ratio`` is a floor that
            holds at every moment; ``iterative_steps`` rounds of training and ``step()`` share ``total_steps``.

    Raises:
        ConfigError: For arguments that cannot work, before any training.
        UnsupportedModelError: If some group of channels cannot be masked faithfully; the message names it.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        importance: Callable[[Any], Tensor | None] | None = None,
        *,
        constraint: Constraint | Sequence[Constraint] | None = None,
        total_steps: int | None = None,
        target: str = "channels",
        bilevel: BiLevelConfig | dict[str, Any] | None = None,
        multipliers: MultiplierConfig | dict[str, Any] | None = None,
        task_loss: TaskLoss | None = None,
        self_check: bool = True,
        process_group: Any = None,
        **host: Any,
    ) -> None:
        options = arguments.host_arguments(host)
        model = getattr(model, "_orig_mod", model)  # of torch.compile: its parameters are the original model's
        arguments.check_target(target)
        arguments.check_model(model)
        arguments.check_layers_are_of(model, options)
        flag("self_check", self_check)
        arguments.check_process_group(process_group)
        function("importance", importance, "group → scores")
        self.target = target
        self.config = bilevel_config(bilevel)
        self.lagrangian = lagrangian_of(constraint, multipliers, task_loss, Ranks(process_group))
        self._example = Example(example_inputs, options.get("forward_fn"))
        self.graph_anew_at: list[int] = []
        self.tracing = {
            name: options[name] for name in ("forward_fn", "output_transform", "customized_pruners") if name in options
        }
        self._sizes = ModelSizes(model, self._example)
        self.frozen_parameters = frozen_parameters(model)
        with undisturbed(model):
            self.host_groups: list[HostGroup] = build_graph(self, model, self._example, options)
            self.layers_at_start = layers_of(model, self.DG)
            self.find_groups_anew()
            if self_check:
                check_on_copies(self, self._example)
            self.budget = Budget(self, target, self.config.cost_exponent, self._sizes.cost_model)
            weights = bind_groups(self)
            self.budget.warn_if_nothing_goes()
            self.remember_dense(weights)
            scores = MaskScores(initial_scores(weights, self.host_groups, importance, self.DG), self.config)
        self.dense_record: tuple[Evaluation, Size] | None = None
        self._renewed: Renewed = {}
        self.removing = False  # true between the first and the last channel that goes
        self.begin_whole()
        self.total_steps = total_steps
        self.engine = BiLevelEngine(model, weights, self.lagrangian, self.budget.project, self.config, scores)
        self._optimizer_steps = OptimizerSteps(self.engine.after_optimizer_step)
        self.importance = self.learned_scores
        if total_steps is not None:
            self.plan(total_steps)

    # ---- Torch-Pruning's sparse-training idiom -------------------------------------------------------------

    def plan(self, total_steps: int) -> None:
        """Fixes the number of training steps, which places warm-up, ramp and settling.

        Raises:
            ConfigError: If it is too small for the rounds of ``iterative_steps``.
            TrainingStateError: If training has begun under another plan, or all of it is done.
        """
        total_steps = whole_number("total_steps", total_steps, 1, "training steps")
        if self.current_step >= self.iterative_steps:
            if self.removing:
                raise broken_off()
            if not self.engine.finished:
                raise TrainingStateError(
                    f"the channels were removed, and training then broken off after {self.engine.step_index} of "
                    f"{self.total_steps} steps: to go on from the checkpoints of that run, build model, optimizer and "
                    "pruner anew and call fit() as before"
                )
            raise TrainingStateError(
                f"all {self.iterative_steps} pruning rounds are done, the channels are already removed: build a new "
                "BiFPPruner to prune this model further"
            )
        if self.engine.step_index and total_steps != self.total_steps:
            raise TrainingStateError(
                f"training has begun with total_steps={self.total_steps}: it cannot become {total_steps} now"
            )
        self.total_steps = total_steps
        self.engine.timetable = timetable_of_round(self, total_steps)
        self.lagrangian.plan(total_steps)

    def loss(
        self, logits: Tensor, targets: Tensor, sensitive: Any = None, *, task_loss: Tensor | None = None
    ) -> Tensor:
        """Task loss plus multipliers times surrogate violations of a batch; call ``backward()`` on it.

        Args:
            logits: ``(N,)``, ``(N, 1)`` (binary), ``(N, C)``, or ``(N, L)`` of labels.
            targets: ``(N,)`` class ids, or ``(N, L)``.
            sensitive: ``(N,)`` group ids of the samples, ``(N, A)``, or a mapping of ``(N,)`` ids.
            task_loss: Of this batch, a scalar, where you have computed it yourself (auxiliary heads, distillation, weights
                of samples); default: that of the pruner.

        Raises:
            DataError: For a batch that does not fit the constraint.
            NonFiniteError: For a NaN or infinite loss; weights, mask and running statistics stay good.
        """
        if not self._optimizer_steps.watched:
            check_parameters(self.model, self.host_groups, self.layers_at_start)
            self._optimizer_steps.watch(self.engine.trained.parameters)
        return self.engine.loss(logits, targets, sensitive, task_loss=task_loss)

    def regularize(
        self,
        model: nn.Module,
        loss: Tensor | None = None,
        *,
        scaler: Any = None,
        optimizer: Optimizers | None = None,
    ) -> None:
        """One step of both levels, between ``backward()`` and ``optimizer.step()``.

        While the mask is learned, scores and mask move first; gradients are then those of the weights that are shown. With
        ``joint=False`` every other such step is a mask step, which uses all gradients up, so that the optimizer's step
        leaves the weights alone. Multipliers and the sparsity schedule advance as well.

        Args:
            model: The pruner's model, or a wrapper around it (data parallel, compiled).
            loss: Not needed; accepted because Torch-Pruning's own signature has it.
            scaler: The ``torch.amp.GradScaler`` that scaled the loss, if any: the gradients are unscaled here, and a step
                that overflowed (which the scaler will skip) teaches the mask nothing; it counts as a step nevertheless.
            optimizer: Whose gradients they are, or a list of several; needed with a scaler.

        Raises:
            TrainingStateError: Before ``backward()``, or when all planned steps are done.
            ConfigError: For another model; with a scaler, if some gradient belongs to none of the optimizers given.
        """
        check_given(model, self.engine.model, attached=self._sharded is not None)
        refuse_join(model)
        if self.engine.finished:
            removed = self.current_step >= self.iterative_steps
            now = "the channels are removed" if removed else "call pruner.step() to remove the hidden channels"
            raise TrainingStateError(
                f"all {self.total_steps} planned training steps are done (total_steps counts calls of regularize): {now}"
            )
        if scaler is not None and self._sharded is not None:
            raise ConfigError(
                "gradients of a sharded model under a GradScaler are not unscaled here: train it in bfloat16 "
                "(MixedPrecisionPolicy, or torch.autocast), which needs no scaler"
            )
        scaled = scaler is not None and unscale(scaler, optimizer, self.model)
        self.engine.after_backward(overflow_skips=scaled)
        if not scaled:  # after an overflow the scaler leaves the optimizer's step out
            self._optimizer_steps.expect()

    def apply_mask(self) -> None:
        """Makes hidden weights zero again after something else than an optimizer's ``step()`` wrote to the weights: a
        schedule-free optimizer's ``train()`` or ``eval()``, or an averaged copy (EMA) that was loaded into the model."""
        self.engine.reapply_mask()

    def update_regularizer(self) -> None:
        """Nothing to do: scores and masks follow every step. Kept for Torch-Pruning's training idiom."""

    def step(self, interactive: bool = False) -> Iterator[Any] | None:
        """Removes the hidden channels for good, through the dependency graph.

        Afterwards the model's parameters are new tensors: the old optimizer refuses to step, continue with
        :meth:`rebuild_optimizer`. Under data parallelism every rank calls it, and the wrapper is stale as well:
        ``ddp = rewrap(ddp)``. The weights of a sharded copy (:meth:`attach`) come into the pruner's own model first, which
        is the smaller one afterwards; the copy is left as it is. Buffers (running statistics) become the first rank's.

        Args:
            interactive: Yield the pruning groups instead, each to be pruned by the caller with ``.prune()``,
                as in Torch-Pruning; the removal is complete when the iterator is exhausted.

        Raises:
            TrainingStateError: If the mask has not reached its target yet, or the ranks of a data-parallel run have
                weights of their own.
        """
        check_ready(self)
        self._detach()
        share_buffers(self.model, self.lagrangian.ranks)
        self.current_step += 1
        if interactive:
            return self._remove()
        with deferred_interrupt(True):  # half a removal is no model: Ctrl-C waits for its end
            for group in self._remove():
                group.prune()
        return None

    def rebuild_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Gives an optimizer the parameters of the smaller model, in place, and cuts its state to size; returns it.

        Groups, settings and hooks stay, and so do schedulers of it. After a sharded copy was trained, every rank calls
        this; if the smaller model has a sharded copy already (:meth:`attach`), it is for that.

        Raises:
            ConfigError: For something that is no optimizer.
        """
        return rebuild(optimizer, self._renewed_of_trained())

    def replaced(self) -> list[Tensor]:
        """Parameters of before the last removal that the model has no more."""
        return [old for old, (new, _) in self._renewed_of_trained().items() if new is not old]

    # ---- what the run is about -----------------------------------------------------------------------------

    def count(self) -> tuple[float, int]:
        """MACs (of the example inputs, per sample) and parameters of the model as it is, by Torch-Pruning."""
        return self._sizes.now()

    @property
    def dense_macs(self) -> float:
        """MACs of the model before anything was removed."""
        return self._sizes.dense()[0]

    @property
    def dense_params(self) -> int:
        """Parameters of the model before anything was removed."""
        return self._sizes.dense()[1]

    def masked_size(self, target: str = "params") -> float:
        """Parameters (or MACs) that remain once the hidden channels are gone."""
        return self.budget.size(self.engine.weights.keep, target)

    def final_ratio(self, module: nn.Module) -> float:
        """Pruning ratio a layer shall reach (``pruning_ratio_dict``, else the global one), under the cap."""
        ratios = self.pruning_ratio_dict.get(module)
        return float(min(self.pruning_ratio if ratios is None else ratios[-1], self.max_pruning_ratio))

    def final_head_ratio(self, layer: nn.Module) -> float:
        """Share of attention heads a layer shall lose."""
        return float(self.head_pruning_ratio_dict.get(layer, self.per_step_head_pruning_ratio)[-1])

    def find_group(self, group: Any) -> tuple[int, Tensor] | None:
        """Which of our groups a Torch-Pruning group is, and the root channel of each of its entries."""
        return find_group(self.host_groups, group)

    # ---- masks and removal ---------------------------------------------------------------------------------

    def learned_scores(self, group: Any) -> Tensor | None:
        """The run's score of every channel of a Torch-Pruning group; ``None`` for a group it does not know."""
        found = self.find_group(group)
        if found is None:
            return None
        index, channels = found
        scores = self.engine.scores.value()[self.engine.weights.of(index)].cpu()
        return scores[self.host_groups[index].unit_of_root[channels]]

    def _remove(self) -> Iterator[Any]:
        self.removing = True
        self._sizes.dense()
        outputs = SameOutputs(self.model, self._example)
        weights = self.engine.weights
        self.engine.norms.release()
        renewal = ParameterRenewal(self.model, weights)
        hidden = [~weights.keep[weights.of(i)].cpu() for i in range(len(self.host_groups))]
        head_dims = HeadDims(self)
        yield from pruning_groups(self, self.host_groups, hidden)
        head_dims.update()
        self._renewed = renewal.complete(self.model)
        self._optimizer_steps.stop()
        outputs.warn_if_changed()
        begin_next_round(self, weights.keep)
        self.removing = False
