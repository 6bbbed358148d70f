"""A Lightning callback: the pruner inside ``Trainer.fit``, with automatic optimization."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..engine.run.schedule_free import refuse_schedule_free
from ..errors import ConfigError, DataError, MissingHostError, TrainingStateError
from .session import session_of
from .session_state import has_removed

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    # One library under two names, with distinct classes; a trainer takes callbacks of either.
    _NAMES = [name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)]
    if not _NAMES:
        raise MissingHostError(
            "fairprune_plugin.trainers.lightning needs Lightning: pip install 'fairprune-plugin[lightning]'"
        )
    _HOME = "lightning.pytorch.callbacks" if _NAMES[0] == "lightning" else "pytorch_lightning.callbacks"
    Callback = importlib.import_module(_HOME).Callback

AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")


class BiFPCallback(Callback):  # type: ignore[misc]
    """Prunes under the constraint while Lightning trains.

    The module's ``training_step`` returns a dict with ``"loss"`` (its task loss), ``"logits"``, ``"targets"`` and
    ``"sensitive"``; the callback adds the penalties to the loss. (A ``training_step`` that calls ``pruner.loss(…)`` itself
    may return that.) Between the last backward pass of an optimizer step and clipping, the step of weights and mask
    is made; at the end of ``fit`` the channels are removed. Callback state goes into Lightning's checkpoints.

    Args:
        pruner: A :class:`~..torch_pruning.BiFPPruner` over the module, or over a network inside it; without ``total_steps``
            it takes the trainer's number of optimizer steps.
        log: Whether metrics go to the trainer's logger, every ``log_every_n_steps`` steps.
        **session: ``validation``, ``dual_every``, ``validate_every``, ``select_by``, ``forward``, ``metrics``, ``remove``
            and ``remove_early``: as in :class:`~.session.Session`.

    Raises:
        ConfigError: For a wrong option; at the start of training for a pruner of another module.
    """

    def __init__(self, pruner: Any, *, log: bool = True, **session: Any) -> None:
        super().__init__()
        self.session = session_of(self, pruner, session)
        self.log = log
        self.removed = False
        self._left_out = False
        self._stepped_with: list[Any] = []
        self._undo: list[Callable[[], None]] = []

    # ---- Lightning's hooks ---------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        pruned = self.session.pruner.model
        if all(module is not pruned for module in pl_module.modules()):
            raise ConfigError(
                "the pruner was built for another model: pass the LightningModule that is trained, or a network inside "
                "of it, to BiFPPruner(model, …)"
            )
        _refuse_averaging(trainer.callbacks)
        _refuse_copying_processes(trainer.strategy)
        self._replace_training_step(pl_module)
        self._remove_before_weights_are_loaded(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        steps = self._planned_steps(trainer, pl_module)
        if trainer.fast_dev_run and steps == 1:
            raise ConfigError("fast_dev_run takes a single step, the mask needs at least two: fast_dev_run=2 or more")
        for optimizer in trainer.optimizers:
            refuse_schedule_free(optimizer)
        done = trainer.global_step
        if not pl_module.automatic_optimization and len(trainer.optimizers) > 1 and done:
            done = self.session.pruner.engine.step_index or done  # Lightning's number is of the steps of all optimizers
        self.session.begin(steps, done)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """After the last backward pass, on unscaled gradients, before clipping."""
        own = {id(parameter) for parameter in self.session.pruner.model.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            return
        if self._is_next_of_several(optimizer):
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # training_step returned None: for every batch, or (under a scaler Lightning then makes no update) for the last.
        nothing = not self.session.has_loss or (scaler is not None and self._left_out)
        if pl_module.automatic_optimization and nothing:
            self.session.pass_over()
        else:
            self.session.before_update(scaler, optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stepped = self.session.stepped
        scalars = self.session.after_update(*trainer.optimizers)
        every = trainer.log_every_n_steps  # 0: never
        if stepped and self.log and every and trainer.global_step % every == 0:
            scalars = {**self.session.step_scalars(), **scalars}
        if scalars and self.log and not trainer.barebones:
            pl_module.log_dict(scalars, on_step=True, on_epoch=False)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Only now: other callbacks may still write a checkpoint at the end of training."""
        self._restore_module()
        self.removed = self.session.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._restore_module()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._restore_module()

    def state_dict(self) -> dict[str, Any]:
        return self.session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.session.load_state_dict(state_dict)

    def _is_next_of_several(self, optimizer: Any) -> bool:
        """Whether, by hand, several optimizers use the gradients of one loss, and this one comes after the first: mask and
        gradients of all weights are ready."""
        again = self.session.stepped and not self.session.pruner.engine.awaits_backward
        if again and all(other is not optimizer for other in self._stepped_with):
            self._stepped_with.append(optimizer)
            return True
        self._stepped_with = [optimizer]
        return False

    def _planned_steps(self, trainer: Any, pl_module: Any) -> int | None:
        """Optimizer steps of the whole run, ``None`` if Lightning does not know."""
        if pl_module.automatic_optimization:
            steps = trainer.estimated_stepping_batches  # infinite, or −1, where there is no end
            return steps if isinstance(steps, int) and steps > 0 else None
        # Lightning's number is that of batches: it does not see in which of them training_step calls an optimizer.
        if self.session.pruner.total_steps is None:
            raise ConfigError(
                "with manual optimization Lightning does not know how many optimizer steps training_step will take: pass "
                "total_steps=… to the pruner, the number of them in the whole training"
            )
        return None

    # ---- the loss ------------------------------------------------------------------------------------------

    def _replace_training_step(self, pl_module: Any) -> None:
        step = pl_module.training_step

        @functools.wraps(step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            return self._with_penalty(step(*args, **kwargs))

        # Lightning reads the signature to know whether batch_idx is wanted, through one layer only.
        training_step.__wrapped__ = inspect.unwrap(step)
        self._replace(pl_module, "training_step", training_step)

    def _remove_before_weights_are_loaded(self, pl_module: Any) -> None:
        """Weights of after a removal fit the smaller network only, and Lightning loads them before states of callbacks."""
        original = pl_module.on_load_checkpoint

        def on_load_checkpoint(loaded: dict[str, Any]) -> Any:
            state = loaded.get("callbacks", {}).get(self.state_key)
            if has_removed(state):
                self.session.load_state_dict(state)
            return original(loaded)

        self._replace(pl_module, "on_load_checkpoint", on_load_checkpoint)

    def _replace(self, pl_module: Any, name: str, method: Any) -> None:
        """On the instance, as long as it is in training."""
        before = vars(pl_module).get(name)
        setattr(pl_module, name, method)

        def undo() -> None:
            if before is None:
                delattr(pl_module, name)
            else:
                setattr(pl_module, name, before)

        self._undo.append(undo)

    def _restore_module(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _with_penalty(self, output: Any) -> Any:
        self._left_out = output is None
        if output is None:  # Lightning's way of leaving a batch out
            return None
        if isinstance(output, Mapping) and "logits" in output:
            missing = [name for name in ("loss", "targets") if not isinstance(output.get(name), Tensor)]
            if missing:
                raise DataError(
                    f"training_step returned logits without {' and '.join(missing)} as tensors: return a dict with 'loss', "
                    "'logits', 'targets' and 'sensitive'"
                )
            if output.get("sensitive") is None and self.session.pruner.lagrangian.constraints:
                raise DataError(
                    "training_step returned no group ids, which the constraint needs: add 'sensitive' to what training_step "
                    "returns"
                )
            total = self.session.loss(
                output["logits"], output["targets"], output.get("sensitive"), task_loss=output["loss"]
            )
            return {**output, "loss": total}
        if self.session.stepped:  # by hand: backward pass and update were made in training_step
            return output
        if not self.session.pruner.engine.awaits_backward:
            raise TrainingStateError(
                "training_step returned a loss that the constraint is not in: return a dict with 'loss', 'logits', "
                "'targets' and 'sensitive' (the callback adds the penalties), or compute the loss with pruner.loss(…)"
            )
        self.session.note_loss(output["loss"] if isinstance(output, Mapping) else output)
        return output


def _refuse_copying_processes(strategy: Any) -> None:
    """Forked or spawned processes train copies of module and pruner; only the weights come back, if they still fit."""
    if type(getattr(strategy, "launcher", None)).__name__ == "_MultiProcessingLauncher":
        raise ConfigError(
            "with ddp_fork, ddp_spawn and ddp_notebook, processes train copies of the module, and their smaller weights "
            "would not fit the original at the end: pass strategy='ddp', which runs the whole script in every process"
        )


def _refuse_averaging(callbacks: Iterable[Any]) -> None:
    """By name: there are two libraries, and older versions without one of them."""
    for callback in callbacks:
        if any(kind.__name__ in AVERAGING for kind in type(callback).__mro__):
            raise ConfigError(
                f"{type(callback).__name__} averages weights that were shown under different masks, and puts them into the "
                "model beside the callback that removes channels: leave it out; BiFPCallback(pruner, validation=…) chooses "
                "the best moment, and weights are averaged in a loop of your own with pruner.apply_mask() before "
                "pruner.step()"
            )
