"""A callback for Hugging Face's ``Trainer``: the pruner inside ``trainer.train()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.run.schedule_free import refuse_schedule_free
from ..engine.storage import checkpoint
from ..errors import ConfigError, DataError, MissingHostError, TrainingStateError
from .sensitive_fields import SensitiveFields
from .session import session_of
from .session_state import has_removed

try:
    from transformers import TrainerCallback
except ImportError as error:  # pragma: no cover - exercised in a subprocess without transformers
    raise MissingHostError(
        "fairprune_plugin.trainers.transformers needs transformers: pip install 'fairprune-plugin[transformers]'"
    ) from error

STATE_FILE = "fairprune.pt"
IGNORED_LABEL = -100  # the trainer does not count it among the items of a batch


class BiFPCallback(TrainerCallback):  # type: ignore[misc]
    """Prunes under the constraint while the trainer trains: ``BiFPCallback(pruner).attach(trainer)``.

    The penalties are added to the trainer's ``compute_loss_func``, or to the pruner's task loss if there is none. After
    the last backward pass of an optimizer step (and the trainer's clipping) the step of weights and mask is made; at the
    end of training the channels are removed. The callback's state lies beside the trainer's checkpoints.

    Args:
        pruner: A :class:`~..torch_pruning.BiFPPruner` over the trainer's model; without ``total_steps`` it takes the
            trainer's number of optimizer steps.
        sensitive: The field of a batch with the group ids, or several fields of several attributes. They do not reach the
            model. With a ``datasets.Dataset`` keep the trainer from dropping them:
            ``TrainingArguments(remove_unused_columns=False)``.
        logits: Output of the model → logits; default its ``logits``, or the output itself.
        log: Whether metrics go out through ``trainer.log`` whenever the trainer logs.
        **session: ``validation``, ``dual_every``, ``validate_every``, ``select_by``, ``forward``, ``metrics``, ``remove``
            and ``remove_early``: as in :class:`~.session.Session`.
    """

    def __init__(
        self,
        pruner: Any,
        *,
        sensitive: str | Sequence[str] = "sensitive",
        logits: Callable[[Any], Tensor] | None = None,
        log: bool = True,
        **session: Any,
    ) -> None:
        self._fields = SensitiveFields(sensitive)
        self._logits = logits or _default_logits
        if session.get("validation") is not None:
            session["validation"] = self._fields.taken_from(session["validation"])
        self.session = session_of(self, pruner, {"forward": self._forward, **session})
        self.log = log
        self.removed = False
        self._sensitive: Any = None
        self._task_loss: Callable[..., Tensor] | None = None
        self._trainer: Any = None
        self._loaded = False
        self._resumed_from: Path | None = None

    def attach(self, trainer: Any) -> BiFPCallback:
        """Puts the callback, the loss and the sensitive attribute into a trainer; call it before ``train()``.

        Raises:
            ConfigError: For a trainer of another model, or one with settings that cannot work; they are named.
        """
        _check_trainer(trainer, self.session.pruner.model)
        if self._trainer is not None:
            raise ConfigError("this callback is attached to a trainer already: build one for each trainer")
        self._trainer = trainer
        self._task_loss = trainer.compute_loss_func
        trainer.compute_loss_func = self.compute_loss
        self._keep_from_model(trainer)
        self._watch_resuming(trainer)
        self._follow_removal()
        trainer.add_callback(self)
        return self

    def load_checkpoint(self, folder: Any) -> None:
        """Reads the pruner's state from a folder. Only needed before ``trainer.train(resume_from_checkpoint=…)`` if it does
        not lie in the folder that the trainer resumes from."""
        self._load(checkpoint.read(Path(folder, STATE_FILE)))

    def _load(self, state: Any) -> None:
        self.session.load_state_dict(state)
        self._loaded = True
        self._follow_removal()

    def _follow_removal(self) -> None:
        """An optimizer that the trainer was given holds parameters that a loaded state may have replaced by smaller ones."""
        pruner = self.session.pruner
        if self._loaded and pruner.current_step and self._trainer is not None and self._trainer.optimizer is not None:
            pruner.rebuild_optimizer(self._own_optimizer())

    def compute_loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        """The trainer's ``compute_loss_func``: the Lagrangian of a micro-batch, as its share of the optimizer step's.

        In evaluation it is the task loss alone, and needs no sensitive attribute.
        """
        logits = self._logits(outputs)
        if not isinstance(labels, Tensor):
            raise DataError(
                f"expected the targets under 'labels' in the batch, got {type(labels).__name__}: rename the column, or let "
                "the data collator do it"
            )
        own = self._task_loss
        if not torch.is_grad_enabled():
            if own is not None:
                return own(outputs, labels, num_items_in_batch=num_items_in_batch)
            task_loss: Tensor = self.session.pruner.lagrangian.task_loss(logits, labels)
            if num_items_in_batch is None:
                return task_loss
            # Of all ranks' items, if the trainer counts those: then it multiplies by the number of ranks as well.
            of_all: Tensor = labels.ne(IGNORED_LABEL).sum() / num_items_in_batch
            return task_loss * of_all
        share = self._share_of_step(labels, num_items_in_batch)
        given = None
        if own is not None:
            given = own(outputs, labels, num_items_in_batch=num_items_in_batch) / share
        return self.session.loss(logits, labels, self._taken_sensitive(), task_loss=given) * share

    def _share_of_step(self, labels: Tensor, num_items_in_batch: Any) -> Tensor | float:
        """The trainer sums the losses of the micro-batches of a step: each is to be a share of a mean over all.

        With several ranks, that of the micro-batches of all of them: the session's loss is such that its mean over the ranks
        is that of their samples, however they are shared out.
        """
        if num_items_in_batch is None:
            return 1.0
        items = labels.ne(IGNORED_LABEL).sum()
        # Where the trainer counts the items of all ranks (average_tokens_across_devices), it multiplies the loss by the
        # number of ranks, which is that of the equal counts summed up here.
        counts = torch.stack([items, torch.as_tensor(num_items_in_batch, device=items.device)]).float()
        total: Tensor = self.session.pruner.lagrangian.ranks.sum(counts)
        return total[0] / total[1]

    # ---- the trainer's events ------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._trainer is None:
            raise TrainingStateError(
                "the callback alone has no say in the loss: instead of passing it in callbacks=[…], call "
                "BiFPCallback(pruner).attach(trainer) before trainer.train()"
            )
        refuse_schedule_free(self._own_optimizer())
        if state.global_step > 0 and not self._loaded:
            self._find_checkpoint(state)
        self._loaded, self._resumed_from = False, None
        self.session.begin(state.max_steps if state.max_steps > 0 else None, state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.session.has_loss:
            raise TrainingStateError(
                f"{type(self._trainer).__name__}.compute_loss did not call compute_loss_func, so the constraint is not in "
                "the loss: let it call self.compute_loss_func(outputs, labels, num_items_in_batch=…)"
            )
        self.session.before_update(self._trainer.accelerator.scaler, self._own_optimizer())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        scalars = self.session.after_update(self._own_optimizer())
        due = control.should_log
        if due:
            scalars = {**self.session.step_scalars(), **scalars}
        if scalars and self.log:
            self._trainer.log(scalars)
            control.should_log = due  # which our log has reset: the trainer's own is still to come

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            checkpoint.write(_folder(args, state) / STATE_FILE, self.session.state_dict())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.removed = self.session.end()

    def _own_optimizer(self) -> Any:
        """The trainer's optimizer, out of accelerate's wrapper: the one that a scaler knows."""
        optimizer = self._trainer.optimizer
        return getattr(optimizer, "optimizer", optimizer)

    # ---- the sensitive attribute, and resuming -------------------------------------------------------------

    def _keep_from_model(self, trainer: Any) -> None:
        """The model's forward has no argument for the sensitive attribute: it is taken out of the batch before."""
        original = trainer.compute_loss

        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._sensitive = self._fields.pop(inputs)
            return original(model, inputs, *args, **kwargs)

        trainer.compute_loss = compute_loss
        predict = trainer.prediction_step

        def prediction_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            # Without labels the trainer computes no loss. With them it may want the attribute as one of its label_names.
            names = trainer.label_names
            if not self._fields.among(names) or any(inputs.get(name) is None for name in names):
                self._fields.pop(inputs)
            return predict(model, inputs, *args, **kwargs)

        trainer.prediction_step = prediction_step

    def _taken_sensitive(self) -> Any:
        taken, self._sensitive = self._sensitive, None
        if taken is None and self.session.pruner.lagrangian.constraints:
            raise DataError(
                f"the batch has no {self._fields}, which the constraint needs: add that column to the training data and "
                "keep the trainer from dropping it, TrainingArguments(remove_unused_columns=False), or name the column, "
                "BiFPCallback(pruner, sensitive=…)"
            )
        return taken

    def _forward(self, model: Any, inputs: Any) -> Tensor:
        return self._logits(model(**inputs) if isinstance(inputs, Mapping) else model(inputs))

    def _watch_resuming(self, trainer: Any) -> None:
        """Where a checkpoint lies is told to this method alone: the step's folder in ``output_dir`` may be another run's.

        Weights of after a removal fit the smaller model only, so that the removal comes first.
        """
        original = trainer._load_from_checkpoint

        def load_from_checkpoint(resume_from_checkpoint: Any, *args: Any, **kwargs: Any) -> Any:
            self._resumed_from = Path(resume_from_checkpoint)
            file = self._resumed_from / STATE_FILE
            if not self._loaded and file.is_file() and has_removed(state := checkpoint.read(file)):
                self._load(state)
            return original(resume_from_checkpoint, *args, **kwargs)

        trainer._load_from_checkpoint = load_from_checkpoint

    def _find_checkpoint(self, state: Any) -> None:
        folder = self._resumed_from
        if folder is None or not (folder / STATE_FILE).is_file():
            raise TrainingStateError(
                f"the trainer resumes at step {state.global_step}, but there is no {STATE_FILE} in "
                f"{folder or 'a folder that it has named'}: if the pruner's state is elsewhere, call "
                "callback.load_checkpoint(folder) before train(resume_from_checkpoint=…); a checkpoint that was written "
                "without this callback cannot be resumed with it"
            )
        self.session.load_state_dict(checkpoint.read(folder / STATE_FILE))


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir, f"checkpoint-{state.global_step}")


def _default_logits(outputs: Any) -> Tensor:
    found = outputs["logits"] if isinstance(outputs, Mapping) and "logits" in outputs else outputs
    found = getattr(found, "logits", found)
    if not isinstance(found, Tensor):
        raise DataError(
            f"expected logits in the model's output, got {type(outputs).__name__}: pass BiFPCallback(pruner, logits=lambda "
            "outputs: …), which picks them"
        )
    return found


def _check_trainer(trainer: Any, model: Any) -> None:
    if not hasattr(trainer, "compute_loss_func") or not hasattr(trainer, "add_callback"):
        raise ConfigError(f"expected a transformers.Trainer, got a {type(trainer).__name__}")
    if trainer.model is not model:
        raise ConfigError(
            "the pruner was built for another model than the trainer's: pass trainer.model to BiFPPruner(model, …)"
        )
    args = trainer.args
    refused = {
        "load_best_model_at_end=True: its best moment may have another mask; pass validation=… to BiFPCallback, which "
        "chooses among the moments at the target size": args.load_best_model_at_end,
        "auto_find_batch_size=True: it starts over with a model that is pruned in part; set the batch size": (
            args.auto_find_batch_size
        ),
        "model_init: train() builds another model with it than the one that the pruner was built for; pass the model, "
        "Trainer(model=…)": trainer.model_init is not None,
        "several GPUs in one process (DataParallel): start it with torchrun": args.n_gpu > 1,
        "FSDP or DeepSpeed: their parameters are shards": trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled,
        "label_smoothing_factor: the pruner's loss takes its place; pass "
        "BiFPPruner(task_loss=nn.CrossEntropyLoss(label_smoothing=…))": (
            args.label_smoothing_factor and trainer.compute_loss_func is None
        ),
    }
    found = [reason for reason, wrong in refused.items() if wrong]
    if found:
        raise ConfigError(f"this trainer cannot be pruned in: {'; '.join(found)}")
