"""A Lightning module that optimizes by hand, beside the callback."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

if importlib.util.find_spec("lightning") is None:
    pytest.skip("needs lightning", allow_module_level=True)

import lightning.pytorch as pl

from fairprune_plugin.errors import ConfigError, TrainingStateError
from fairprune_plugin.trainers.lightning import BiFPCallback
from lightning_modules import ALONE, WARNS_OF_ITS_OWN, Classifier, float16, train
from trainer_data import EPOCHS, MICRO_BATCHES, assert_same, own_loop, pruner_of

pytestmark = WARNS_OF_ITS_OWN


class Manual(Classifier):
    """Optimizes by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any) -> None:
        x, y, s = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.pruner.loss(self.net(x), y, s))
        optimizer.step()


@pytest.mark.parametrize("early", [False, True])
def test_manual_optimization(early: bool) -> None:
    module = Manual()
    module.pruner = pruner_of(module.net, total_steps=EPOCHS * MICRO_BATCHES)
    train(module, BiFPCallback(module.pruner, remove_early=early))
    assert_same(module.net, module.pruner, own_loop(remove_early=early))


class ManualReturning(Manual):
    """Returns the loss, which Lightning does not need then."""

    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.returned = returned

    def training_step(self, batch: Any) -> Any:
        super().training_step(batch)
        return self.returned


@pytest.mark.parametrize("returned", [torch.ones(()), {"loss": torch.ones(())}], ids=["tensor", "dict"])
def test_manual_optimization_that_returns_something(returned: Any) -> None:
    module = ManualReturning(returned)
    module.pruner = pruner_of(module.net, total_steps=EPOCHS * MICRO_BATCHES)
    train(module, BiFPCallback(module.pruner))
    assert_same(module.net, module.pruner, own_loop())


class ManualInTwos(Manual):
    """Accumulates the gradients of two batches."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y, s = batch
        optimizer = self.optimizers()
        self.manual_backward(self.pruner.loss(self.net(x), y, s) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


def test_manual_optimization_with_accumulation() -> None:
    module = ManualInTwos()
    module.pruner = pruner_of(module.net, total_steps=EPOCHS * MICRO_BATCHES // 2)
    train(module, BiFPCallback(module.pruner))
    assert_same(module.net, module.pruner, own_loop(accumulate=2))


class ManualWithTwo(Manual):
    """An optimizer for the first layer, and one for the others."""

    def configure_optimizers(self) -> Any:
        first = list(self.net.fc1.parameters())
        own = {id(parameter) for parameter in first}
        others = [parameter for parameter in self.parameters() if id(parameter) not in own]
        return [torch.optim.SGD(parameters, lr=0.1, momentum=0.9) for parameters in (first, others)]

    def training_step(self, batch: Any) -> None:
        x, y, s = batch
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(self.pruner.loss(self.net(x), y, s))
        for optimizer in optimizers:
            optimizer.step()


@ALONE
@pytest.mark.parametrize("early", [False, True])
def test_manual_optimization_with_two_optimizers(early: bool, tmp_path: Path) -> None:
    def made() -> ManualWithTwo:
        module = ManualWithTwo()
        module.pruner = pruner_of(module.net, total_steps=EPOCHS * MICRO_BATCHES)
        return module

    module = made()
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    train(module, BiFPCallback(module.pruner, remove_early=early), callbacks=[saving], enable_checkpointing=True)
    assert_same(module.net, module.pruner, own_loop(remove_early=early))
    again = made()
    train(again, BiFPCallback(again.pruner, remove_early=early), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert_same(again.net, again.pruner, own_loop(remove_early=early))


class StepsAgain(Manual):
    """Its second update has a loss that the constraint is not in."""

    def training_step(self, batch: Any) -> None:
        super().training_step(batch)
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        self.optimizers().step()


def test_an_optimizer_that_steps_twice_on_one_loss_is_refused() -> None:
    module = StepsAgain()
    module.pruner = pruner_of(module.net, total_steps=EPOCHS * MICRO_BATCHES)
    with pytest.raises(TrainingStateError, match="a step needs fresh gradients"):
        train(module, BiFPCallback(module.pruner))


def test_manual_optimization_of_unknown_length_is_refused() -> None:
    module = ManualInTwos()
    module.pruner = pruner_of(module.net)
    with pytest.raises(ConfigError, match=r"manual optimization .* pass total_steps=… to the pruner"):
        train(module, BiFPCallback(module.pruner))


def test_manual_optimization_in_float16() -> None:
    """Lightning has the backward pass under autocast then, so that digits differ from those of a loop of one's own."""
    module, scaler = Manual(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    module.pruner = pruner_of(module.net, total_steps=EPOCHS * MICRO_BATCHES)
    train(module, BiFPCallback(module.pruner), plugins=[float16(scaler)])
    expected, scores = own_loop()[0], module.pruner.engine.scores
    assert module.net.fc1.out_features == 8
    assert scaler.get_scale() == 2.0**10
    assert scores.updates == 5
    torch.testing.assert_close(module.net.head.bias, expected.head.bias, rtol=0, atol=0.02)
