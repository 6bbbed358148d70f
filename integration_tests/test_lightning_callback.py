"""Training with Lightning and the callback is training with a loop of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if importlib.util.find_spec("lightning") is None:
    pytest.skip("needs lightning", allow_module_level=True)

import lightning.pytorch as pl

from fairprune_plugin.errors import ConfigError, DataError, FairPruneWarning, TrainingStateError
from fairprune_plugin.trainers.lightning import BiFPCallback
from lightning_modules import ALONE, QUIET, WARNS_OF_ITS_OWN, Classifier, float16, loader, train
from trainer_data import (
    CLIPPED_AT,
    EPOCHS,
    MICRO_BATCHES,
    Exchanging,
    assert_good_and_smaller,
    assert_same,
    assert_steps_were_left_out,
    batches,
    large_scale,
    network,
    own_loop,
    pruner_of,
)

pytestmark = WARNS_OF_ITS_OWN


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clipping", [False, True])
def test_it_is_the_loop_of_ones_own(accumulate: int, clipping: bool) -> None:
    module = Classifier()
    callback = BiFPCallback(pruner_of(module.net))
    limits = {"gradient_clip_val": CLIPPED_AT} if clipping else {}
    train(module, callback, accumulate_grad_batches=accumulate, **limits)
    expected = own_loop(clip_after=clipping, accumulate=accumulate)
    assert callback.removed
    assert module.net.fc1.out_features == 8
    assert_same(module.net, callback.session.pruner, expected)
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clipping", [False, True])
def test_float16_is_the_loop_of_ones_own_with_a_scaler(accumulate: int, clipping: bool) -> None:
    module = Classifier()
    callback = BiFPCallback(pruner_of(module.net))
    limits = {"gradient_clip_val": CLIPPED_AT} if clipping else {}
    scaler, own_scaler = large_scale(), large_scale()
    train(module, callback, accumulate_grad_batches=accumulate, plugins=[float16(scaler)], **limits)
    expected = own_loop(clip_after=clipping, accumulate=accumulate, scaler=own_scaler)
    assert_steps_were_left_out(own_scaler)
    assert scaler.get_scale() == own_scaler.get_scale()
    assert_same(module.net, callback.session.pruner, expected)


class CallsThePruner(Classifier):
    """Its loss is the pruner's already; Lightning need not know of a batch index."""

    def __init__(self) -> None:
        super().__init__()
        self.pruner = pruner_of(self.net)

    def training_step(self, batch: Any) -> Tensor:
        x, y, s = batch
        return self.pruner.loss(self.net(x), y, s)


def test_a_module_that_calls_the_pruner_itself() -> None:
    module = CallsThePruner()
    train(module, BiFPCallback(module.pruner))
    assert_same(module.net, module.pruner, own_loop())


class WeightedLoss(Classifier):
    """A task loss of the user's own."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, s = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y, torch.tensor([1.0, 2.0]))
        return {"loss": loss, "logits": logits, "targets": y, "sensitive": s}


def test_the_modules_own_loss_is_the_task_loss() -> None:
    module = WeightedLoss()
    callback = BiFPCallback(pruner_of(module.net))
    train(module, callback)
    other = CallsThePruner()
    other.pruner = pruner_of(other.net, task_loss=nn.CrossEntropyLoss(torch.tensor([1.0, 2.0])))
    train(other, BiFPCallback(other.pruner))
    assert_same(module.net, callback.session.pruner, (other.net, other.pruner))


class LeavesOut(Classifier):
    """Returns nothing for some batches."""

    def __init__(self, left_out: Any) -> None:
        super().__init__()
        self.left_out = left_out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx in self.left_out else super().training_step(batch, batch_idx)


NOTHING_RETURNED = pytest.mark.filterwarnings("ignore:.*training_step. returned .None.*:UserWarning")


@NOTHING_RETURNED
@pytest.mark.parametrize("left_out", [{0}, {1, 7}, {2, 3, 4}])
def test_a_batch_that_is_left_out_teaches_nothing_and_the_mask_reaches_its_target(left_out: Any) -> None:
    module = LeavesOut(left_out)
    callback = with_validation(module)
    train(module, callback)
    engine = callback.session.pruner.engine
    assert engine.step_index == EPOCHS * MICRO_BATCHES
    assert engine.passes == EPOCHS * (MICRO_BATCHES - len(left_out))
    assert callback.removed
    assert module.net.fc1.out_features == 8
    assert [row.step for row in callback.session.history] == list(range(4, 25, 4))


@NOTHING_RETURNED
def test_one_of_two_accumulated_batches_is_left_out() -> None:
    module = LeavesOut({1, 4})
    callback = BiFPCallback(pruner_of(module.net))
    train(module, callback, accumulate_grad_batches=2)
    assert callback.session.pruner.engine.passes == EPOCHS * MICRO_BATCHES // 2
    assert module.net.fc1.out_features == 8


@NOTHING_RETURNED
def test_the_last_of_two_accumulated_batches_is_left_out_under_a_scaler() -> None:
    """Lightning makes no update then, and the scaler must be ready for the next one."""
    module = LeavesOut({1, 4})
    callback = BiFPCallback(pruner_of(module.net))
    train(module, callback, accumulate_grad_batches=2, plugins=[float16(torch.amp.GradScaler("cpu", 1024.0))])
    engine = callback.session.pruner.engine
    assert engine.step_index == EPOCHS * MICRO_BATCHES // 2
    assert engine.passes == EPOCHS * (MICRO_BATCHES // 2 - 1)
    assert module.net.fc1.out_features == 8


class Stop(pl.Callback):
    """Ends training at a step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == MICRO_BATCHES


def with_validation(module: Classifier) -> BiFPCallback:
    return BiFPCallback(pruner_of(module.net), validation=batches(2, seed=1), validate_every=4)


@ALONE
def test_a_checkpoint_of_lightning_brings_everything_back(tmp_path: Path) -> None:
    whole = Classifier()
    uninterrupted = with_validation(whole)
    train(whole, uninterrupted, max_epochs=6)
    first = Classifier()
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="one", every_n_epochs=1)
    with pytest.warns(FairPruneWarning, match="training stopped after 8 of 48 steps"):
        train(first, with_validation(first), callbacks=[saving, Stop()], enable_checkpointing=True, max_epochs=6)
    assert first.net.fc1.out_features == 16
    second = Classifier()
    with torch.no_grad():
        second.net.fc1.weight.normal_()  # nothing but the checkpoint may matter
    callback = with_validation(second)
    train(second, callback, ckpt_path=tmp_path / "one.ckpt", max_epochs=6)
    assert_same(second.net, callback.session.pruner, (whole.net, uninterrupted.session.pruner))
    assert callback.session.history == uninterrupted.session.history
    assert [row.step for row in callback.session.history] == list(range(4, 49, 4))


@ALONE
def test_a_checkpoint_without_the_callback_cannot_be_resumed_with_it(tmp_path: Path) -> None:
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="one", every_n_epochs=1)
    options = {"enable_checkpointing": True, "max_epochs": 1, **QUIET}
    pl.Trainer(**options, callbacks=[saving]).fit(Classifier(), loader())
    module = Classifier()
    with pytest.raises(TrainingStateError, match="the trainer starts at step 8 and the pruner is at step 0"):
        train(module, BiFPCallback(pruner_of(module.net)), ckpt_path=tmp_path / "one.ckpt")
    assert "training_step" not in vars(module)


class Recorder:
    """A metrics hook."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.evaluations: list[Any] = []

    def on_step(self, row: Any) -> None:
        self.steps.append((row.step, row.mask_step, row.scalars()))

    def on_evaluation(self, row: Any) -> None:
        self.evaluations.append(row)


class Logger(pl.loggers.logger.DummyLogger):
    """Remembers what Lightning logs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    def log_metrics(self, metrics: Any = None, step: Any = None) -> None:
        self.rows.append((step, metrics))


def test_validation_chooses_and_metrics_go_out() -> None:
    module, hook, logger = Classifier(), Recorder(), Logger()
    callback = BiFPCallback(pruner_of(module.net), validation=batches(2, seed=1), validate_every=8, metrics=hook)
    train(module, callback, logger=logger, log_every_n_steps=4)
    pruner = callback.session.pruner
    assert pruner.lagrangian.driver == "validation"
    assert [step for step, _, _ in hook.steps] == list(range(1, 25))
    assert sum(mask_step for _, mask_step, _ in hook.steps) > 3
    assert [row.step for row in hook.evaluations] == [8, 16, 24]
    assert hook.evaluations[-1].at_target
    logged = {name for _, metrics in logger.rows for name in metrics}
    assert {"train/loss", "multiplier/equal_opportunity", "validation/gap/equal_opportunity"} <= logged
    best = max(callback.session.history, key=lambda row: (row.at_target, -max(row.gaps[0] - 0.02, 0), row.accuracy))
    assert pruner.evaluate(batches(2, seed=1), split="validation").accuracy == pytest.approx(best.accuracy)


@pytest.mark.parametrize("options", [{"log_every_n_steps": 0}, {"barebones": True}])
def test_a_trainer_that_logs_nothing(options: dict[str, Any]) -> None:
    module = Classifier()
    callback = with_validation(module)
    settings = {"accelerator": "cpu"} if "barebones" in options else {**QUIET, "enable_checkpointing": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "You are trying to `self.log")
        pl.Trainer(max_epochs=EPOCHS, callbacks=[callback], **settings, **options).fit(module, loader())
    assert callback.removed
    assert [row.step for row in callback.session.history] == list(range(4, 25, 4))


def test_bfloat16() -> None:
    module = Classifier()
    callback = with_validation(module)
    train(module, callback, precision="bf16-mixed")
    assert_good_and_smaller(module.net, callback.session.pruner)


def test_channels_stay_if_asked_to() -> None:
    module = Classifier()
    callback = BiFPCallback(pruner_of(module.net), remove=False)
    train(module, callback)
    assert not callback.removed
    assert module.net.fc1.out_features == 16
    callback.session.pruner.step()
    assert module.net.fc1.out_features == 8
    with pytest.raises(TrainingStateError, match="has removed its channels already"):
        train(module, callback)


@pytest.mark.parametrize("remove", [True, False])
def test_a_second_fit_that_has_nothing_left_to_train(remove: bool) -> None:
    module = Classifier()
    callback = BiFPCallback(pruner_of(module.net), validation=batches(2, seed=1), validate_every=8, remove=remove)
    trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[callback], enable_checkpointing=False, **QUIET)
    trainer.fit(module, loader())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, loader())
    assert callback.removed == remove
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.skipif(importlib.util.find_spec("pytorch_lightning") is None, reason="needs pytorch_lightning")
def test_lightning_under_its_other_name() -> None:
    library = importlib.import_module("pytorch_lightning")

    class Other(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        training_step = Classifier.training_step
        configure_optimizers = Classifier.configure_optimizers

    module = Other()
    callback = BiFPCallback(pruner_of(module.net))
    train(module, callback, library=library)
    assert_same(module.net, callback.session.pruner, own_loop())


# ---- refused -----------------------------------------------------------------------------------------------


class Forgetful(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)["loss"]


class Partial(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        return {"loss": output["loss"], "logits": output["logits"]}


class WithoutGroups(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        return {name: output[name] for name in ("loss", "logits", "targets")}


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Forgetful, TrainingStateError, "a loss that the constraint is not in"),
        (Partial, DataError, "returned logits without targets"),
        (WithoutGroups, DataError, "add 'sensitive' to what training_step returns"),
    ],
)
def test_a_training_step_without_what_is_needed(kind: Any, error: Any, message: str) -> None:
    module = kind()
    with pytest.raises(error, match=message):
        train(module, BiFPCallback(pruner_of(module.net)))


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"total_steps": 7}, {}, "the trainer will take 24 optimizer steps, but total_steps=7"),
        ({}, {"max_epochs": -1}, "does not know how many optimizer steps"),
    ],
)
def test_lengths_that_cannot_be(options: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    module = Classifier()
    with pytest.raises(ConfigError, match=message):
        train(module, BiFPCallback(pruner_of(module.net, **options)), **settings)


def test_a_single_step_for_a_try() -> None:
    module = Classifier()
    with pytest.raises(ConfigError, match="fast_dev_run=2 or more"):
        train(module, BiFPCallback(pruner_of(module.net)), fast_dev_run=True)
    train(module, BiFPCallback(pruner_of(module.net)), fast_dev_run=2)
    assert module.net.fc1.out_features == 8


def test_arguments_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"^BiFPCallback has no argument foo: .* takes log, validation, dual_every"):
        BiFPCallback(pruner_of(network()), foo=1)
    with pytest.raises(ConfigError, match="expected a BiFPPruner") as error:
        BiFPCallback(Classifier())
    assert len(str(error.value)) < 160


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_precisions_that_convert_the_weights_are_refused(precision: str) -> None:
    module = Classifier()
    with pytest.raises(ConfigError, match=r"expected fc1\.weight in torch\.float32.*use 32-bit or mixed precision"):
        train(module, with_validation(module), precision=precision)


def test_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="built for another model"):
        train(Classifier(), BiFPCallback(pruner_of(network())))


def test_an_optimizer_that_exchanges_weights_is_refused() -> None:
    class Other(Classifier):
        def configure_optimizers(self) -> Any:
            return Exchanging(self.parameters(), lr=0.1)

    module = Other()
    with pytest.raises(ConfigError, match=r"Exchanging exchanges the weights .* use pruner\.fit"):
        train(module, BiFPCallback(pruner_of(module.net)))


AVERAGING = {"WeightAveraging": {}, "EMAWeightAveraging": {}, "StochasticWeightAveraging": {"swa_lrs": 0.01}}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", AVERAGING)
def test_averages_of_weights_are_refused(name: str, first: bool) -> None:
    averaging = getattr(pl.callbacks, name, None)
    if averaging is None:
        pytest.skip(f"this version of Lightning has no {name}")
    module = Classifier()
    callbacks = [BiFPCallback(pruner_of(module.net)), averaging(**AVERAGING[name])]
    trainer = pl.Trainer(max_epochs=1, callbacks=callbacks if first else callbacks[::-1], **QUIET)
    with pytest.raises(ConfigError, match=f"^{name} averages weights .*leave it out"):
        trainer.fit(module, loader())
    assert "training_step" not in vars(module)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_processes_that_train_copies_are_refused() -> None:
    """Lightning calls ``setup`` in them, before training."""
    module = Classifier()
    callback = BiFPCallback(pruner_of(module.net))
    two = {**QUIET, "accelerator": "cpu", "devices": 2}
    forking = pl.Trainer(strategy="ddp_fork", **two)
    with pytest.raises(ConfigError, match=r"ddp_fork.*smaller weights would not fit.*strategy='ddp'"):
        callback.setup(forking, module, "fit")
    callback.setup(pl.Trainer(strategy="ddp", **two), module, "fit")


EARLIER = {"early": {"remove_early": True}, "in two rounds": {"iterative_steps": 2}}


class Watch(pl.Callback):
    """Channels of a layer after each step."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.widths.append(pl_module.net.fc1.out_features)


@pytest.mark.parametrize("kind", EARLIER)
def test_channels_that_go_before_the_end(kind: str) -> None:
    early, rounds = kind == "early", EARLIER[kind].get("iterative_steps", 1)
    module, watch = Classifier(), Watch()
    callback = BiFPCallback(pruner_of(module.net, iterative_steps=rounds), remove_early=early)
    train(module, callback, callbacks=[watch])
    assert_same(module.net, callback.session.pruner, own_loop(remove_early=early, iterative_steps=rounds))
    assert module.net.fc1.out_features == 8
    assert len(set(watch.widths)) == 2, "some steps were those of a smaller network"


class Scheduled(Classifier):
    """Its learning rate is a schedule's, of the optimizer that was there first."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
        return [optimizer], [{"scheduler": schedule, "interval": "epoch"}]


@ALONE
@pytest.mark.parametrize("kind", EARLIER)
def test_a_checkpoint_of_after_a_removal(kind: str, tmp_path: Path) -> None:
    early, rounds = kind == "early", EARLIER[kind].get("iterative_steps", 1)

    def made() -> tuple[Scheduled, BiFPCallback]:
        module = Scheduled()
        held_out = {"validation": batches(2, seed=1), "validate_every": 4}
        return module, BiFPCallback(pruner_of(module.net, iterative_steps=rounds), remove_early=early, **held_out)

    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    whole, uninterrupted = made()
    train(whole, uninterrupted, max_epochs=6, callbacks=[saving], enable_checkpointing=True)
    widths = set()
    for epoch in range(6):
        module, callback = made()
        with torch.no_grad():
            module.net.fc1.weight.normal_()  # nothing but the checkpoint may matter
        train(module, callback, ckpt_path=tmp_path / f"epoch={epoch}.ckpt", max_epochs=6)
        assert_same(module.net, callback.session.pruner, (whole.net, uninterrupted.session.pruner))
        assert callback.session.history == uninterrupted.session.history
        assert "on_load_checkpoint" not in vars(module)
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"]
        widths.add(len(saved["net.fc1.weight"]))
    assert len(widths) > 1


def test_training_that_broke_off_after_a_removal_is_not_begun_again() -> None:
    class BreaksOff(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 20:
                raise KeyError

    module = Classifier()
    callback = BiFPCallback(pruner_of(module.net), remove_early=True)
    with pytest.raises(KeyError):
        train(module, callback, callbacks=[BreaksOff()])
    with pytest.raises(TrainingStateError, match=r"broken off after 20 of 24 steps: .*resume from a checkpoint"):
        train(module, callback)


class BuiltBefore(Classifier):
    """Its optimizer is there before a checkpoint is read."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = super().configure_optimizers()

    def configure_optimizers(self) -> Any:
        return self.optimizer


@ALONE
def test_an_optimizer_that_a_removal_on_resuming_has_passed_by(tmp_path: Path) -> None:
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    module = BuiltBefore()
    callback = BiFPCallback(pruner_of(module.net), remove_early=True)
    train(module, callback, callbacks=[saving], enable_checkpointing=True)
    assert_same(module.net, callback.session.pruner, own_loop(remove_early=True))
    again = BuiltBefore()
    with pytest.raises(ConfigError, match=r"SGD holds parameters of before .*inside of configure_optimizers"):
        train(again, BiFPCallback(pruner_of(again.net), remove_early=True), ckpt_path=tmp_path / "epoch=1.ckpt")
