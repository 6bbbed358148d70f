"""The bi-level engine: from the gradients of one backward pass to a step of the weights, of the mask or of both.

It knows tensors, groups and steps; it knows no host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PeerError, TrainingStateError
from ..fairness.lagrangian import Lagrangian
from ..fairness.precision import without_autocast
from ..masks.masked_weights import MaskedWeights
from ..masks.norms import MaskedNorms
from ..masks.saliency import mask_gradient
from .config import BiLevelConfig
from .loss_scaling import ForgottenScale
from .non_finite import NonFiniteBatches
from .scores import MaskScores
from .timetable import Timetable
from .trained_model import TrainedModel

Projection = Callable[[Tensor, float], Tensor]


class BiLevelEngine:
    """Learns weights and mask in one run, both under the constraint (docs/method.md, "The two updates").

    By default one backward pass moves both while the mask is learned (a *joint step*); after that only weights move (a
    *weight step*). With ``joint=False`` they take turns: a *mask step* leaves the weights alone.

    Args:
        model: The model being trained; its parameters are the lower level's variables.
        weights: The mask over its channel groups.
        lagrangian: The loss of both levels.
        project: ``(scores, progress) → keep``: the best feasible mask ``(U,)`` bool when ``progress`` of the
            final pruning ratio is due.
        config: Alternation and score settings.
        scores: Of the mask's units, before the first mask step.
        final_after_ramp: Whether nobody moves the mask once it has reached its target, so that what is hidden then need
            not be kept for its return.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: MaskedWeights,
        lagrangian: Lagrangian,
        project: Projection,
        config: BiLevelConfig,
        scores: MaskScores,
        *,
        final_after_ramp: bool = True,
    ) -> None:
        self.trained = TrainedModel(model, lagrangian.ranks)
        self.lagrangian = lagrangian
        self.config = config
        self.step_index = 0
        self.passes = 0
        self._awaiting_backward = False
        self._gradients_are_fresh = False
        self._weights_move = True
        self._bad = NonFiniteBatches(self.trained, lagrangian)
        self._scale = ForgottenScale()
        self.final_after_ramp = final_after_ramp
        self._timetable: Timetable | None = None
        self.begin_phase(weights, project, scores)

    @property
    def model(self) -> nn.Module:
        """The one that is trained."""
        return self.trained.module

    @property
    def timetable(self) -> Timetable:
        """The plan of the current phase.

        Raises:
            TrainingStateError: If nobody has said how long the run is.
        """
        if self._timetable is None:
            raise TrainingStateError(
                "the length of the run is unknown: pass total_steps=… to the pruner (the number of training steps "
                "you will take), or use fit(epochs=…)"
            )
        return self._timetable

    @timetable.setter
    def timetable(self, timetable: Timetable) -> None:
        self._timetable = timetable

    def begin_phase(self, weights: MaskedWeights, project: Projection, scores: MaskScores) -> None:
        """Starts over with (the remaining) groups of channels: another round of iterative pruning."""
        self.weights = weights
        self.norms = MaskedNorms(weights)
        self.project = project
        self.scores = scores
        self.phase_step = 0
        self._ranks_agree = False
        self._bad.buffers.remember()

    def train(self, trained: TrainedModel, weights: MaskedWeights) -> None:
        """Goes on with a copy of the model, of the same weights under the same mask.

        Args:
            trained: The copy.
            weights: The same groups of channels in it, with their mask.
        """
        self.norms.release()
        self.trained, self.weights, self.norms = trained, weights, MaskedNorms(weights)
        self.norms.refresh()
        self.scores.to(weights.keep.device)
        self._bad = NonFiniteBatches(trained, self.lagrangian)
        self._awaiting_backward = False

    def loss(
        self, logits: Tensor, targets: Tensor, sensitive: Any = None, *, task_loss: Tensor | None = None
    ) -> Tensor:
        """The Lagrangian of a batch, to call ``backward()`` on; see :meth:`.Lagrangian.loss`.

        Raises:
            NonFiniteError: If it is NaN or infinite. Weights are untouched and running statistics are set back
                to those of the last good step. On an accelerator it comes some steps later, see
                :mod:`~..value_checks`; what it says about the state holds then too.
            PeerError: If another rank of a data-parallel run refused its batch.
        """
        self.timetable  # noqa: B018 - says so now if the length of the run is unknown
        if not torch.is_grad_enabled():  # somebody only looks at the loss: nothing is counted
            return self.lagrangian.loss(logits, targets, sensitive, task_loss=task_loss, count=False)
        self.lagrangian.checks.raise_arrived()
        with self.lagrangian.ranks.failing_together(), self.lagrangian.checks.collecting():
            loss = self._finite_loss(logits, targets, sensitive, task_loss)
        self._awaiting_backward = True
        self._gradients_are_fresh = False
        if loss.requires_grad:
            loss.register_hook(self._note_backward)  # type: ignore[no-untyped-call]
        return loss

    def _finite_loss(self, logits: Tensor, targets: Tensor, sensitive: Any, task_loss: Tensor | None) -> Tensor:
        try:
            loss = self.lagrangian.loss(logits, targets, sensitive, task_loss=task_loss)
        except PeerError:
            self._bad.undo()  # the forward pass of a batch that no rank learns from
            raise
        self._bad.refuse_loss(loss.detach(), self.step_index)
        return loss

    def _note_backward(self, gradient: Tensor) -> None:
        self._gradients_are_fresh = True
        self._scale.backward_from(gradient)

    @torch.no_grad()
    def after_backward(self, *, overflow_skips: bool = False) -> bool:
        """Moves scores and mask while they are learned, and leaves the gradients of the weights that are shown (of none on a
        mask step).

        Args:
            overflow_skips: Whether a NaN or infinite gradient is no error but a step from which nothing is learned, as
                under a loss scaler, which skips it too.

        Returns:
            Whether scores and mask were learned from.

        Raises:
            TrainingStateError: Without a loss and its ``backward()`` since the last call.
        """
        with without_autocast(self.weights.keep.device):  # a trainer's own step may be under it
            return self._use_gradients(overflow_skips)

    def _use_gradients(self, overflow_skips: bool) -> bool:
        gradients = self._fresh_gradients()
        self._awaiting_backward = False
        self.trained.settle()
        if overflow_skips:
            good: Tensor | None = self._bad.all_finite(gradients)
        else:
            good = self._bad.refuse_gradients(gradients, self.step_index)
        if not self._ranks_agree:
            self._ranks_agree = True
            self.trained.refuse_diverged(gradients=True)
            self.scores.synchronise(self.lagrangian.ranks)
        mask_step = self.timetable.learns_mask(self.phase_step)
        derivative = None
        if mask_step:
            # Equal on all ranks up to the order of sums on an accelerator; a tie would be broken differently.
            derivative = self.lagrangian.ranks.from_first(
                self.trained.total(mask_gradient(self.weights, inverse_gamma=self.config.inverse_gamma))
            )
            finite = torch.isfinite(derivative.square()).all()  # scores are running means: once infinite, always so
            if overflow_skips:
                assert good is not None
                good = good & finite
            else:
                good = self._bad.refuse_unless(finite, self.step_index)
        if good is None:
            self._bad.buffers.remember()
        self.lagrangian.dual_step_from_training(good)
        if derivative is not None:
            self.scores.update(derivative, good)
            if not self.config.joint:
                # No gradient, no movement: optimizers skip such parameters, momentum and decay included.
                for parameter in self.trained.parameters:
                    parameter.grad = None
            self._follow_schedule()
        self._weights_move = not mask_step or self.config.joint
        if good is not None:
            self._bad.make_harmless(good)
        if self._weights_move:
            self.weights.mask_gradients()
            self._scale.before_step(self.trained, unscaled=overflow_skips)
        self.lagrangian.checks.end_step()
        self.step_index += 1
        self.phase_step += 1
        self.passes += 1
        return mask_step

    def _fresh_gradients(self) -> list[Tensor]:
        if not self._awaiting_backward:
            raise TrainingStateError(
                "a step needs fresh gradients: first the pruner's loss of a batch, then its backward(), then the step; "
                "no such loss was formed since the last step"
            )
        gradients = self.trained.gradients() if self._gradients_are_fresh else []
        if not gradients:
            raise TrainingStateError(
                "a step came before backward() of its loss: the gradients, if any, are not those of this batch"
            )
        return gradients

    @torch.no_grad()
    def pass_over(self) -> None:
        """A step whose batches were all left out: it teaches nothing, but the mask keeps to its schedule.

        As after an overflow under a loss scaler, so that the mask reaches its target and steps stay those of a trainer.
        """
        self._awaiting_backward = False
        self.trained.settle()
        if not self._ranks_agree:
            self.scores.synchronise(self.lagrangian.ranks)
        if self.timetable.learns_mask(self.phase_step):
            self._follow_schedule()
        self._weights_move = True  # where gradients are zeroed instead of dropped, momentum moves weights
        self.step_index += 1
        self.phase_step += 1

    def _follow_schedule(self) -> None:
        """The mask that the scores and the schedule ask for after this step."""
        self.set_mask(self.project(self.scores.value(), self.timetable.progress(self.phase_step)))
        if self.final_after_ramp and self.timetable.at_target(self.phase_step):
            self.weights.finish()

    def after_optimizer_step(self) -> None:
        """Restores the mask that momentum and weight decay have moved hidden weights out of."""
        if self._weights_move:
            self.reapply_mask()
            self._scale.after_step(self.trained)

    def reapply_mask(self) -> None:
        """Makes hidden weights zero again, whatever has written to them."""
        self.trained.settle()
        self.weights.reapply()

    def set_mask(self, keep: Tensor) -> None:
        """Installs a mask, ``(U,)`` bool, on weights and norms."""
        self.weights.set(keep.to(self.weights.keep.device))
        self.norms.refresh()

    @property
    def at_target(self) -> bool:
        """Whether the target ratio of this phase has been reached."""
        return self._timetable is not None and self.timetable.at_target(self.phase_step - 1)

    @property
    def awaits_backward(self) -> bool:
        """Whether a loss was computed that :meth:`after_backward` has not been called for."""
        return self._awaiting_backward

    @property
    def finished(self) -> bool:
        """Whether every step of this phase has been taken."""
        return self._timetable is not None and self.phase_step >= self.timetable.steps

    def progress(self) -> float:
        """Share of the final pruning ratio that is hidden now."""
        return self.timetable.progress(self.phase_step - 1)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model: mask, held weights, scores, multipliers, counts and the position."""
        self.lagrangian.checks.settle()
        return {
            "step_index": self.step_index,
            "phase_step": self.phase_step,
            "passes": self.passes,
            "keep": self.weights.keep.clone(),
            "held": self.weights.held(),
            "scores": self.scores.state_dict(),
            "lagrangian": self.lagrangian.state_dict(),
            "buffers": self._bad.buffers.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken; the model's own state is loaded by the user."""
        self.step_index, self.phase_step, self.passes = (state[key] for key in ("step_index", "phase_step", "passes"))
        self.trained.settle()
        self.weights.restore(state["keep"], state["held"])
        self.norms.refresh()
        self.scores.load_state_dict(state["scores"])
        self.lagrangian.load_state_dict(state["lagrangian"])
        # Whether the model's own state was loaded before or comes after: a bad batch must find the right ones.
        self._bad.buffers.set_state(state["buffers"])
        self._awaiting_backward = False
