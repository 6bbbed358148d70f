"""Calls in an order, or at a moment, that the loop does not have; what went wrong can be put right."""

from __future__ import annotations

import copy

import pytest
import torch
from constrained_mlp import batch, constrained

from driving import SGD, batches_for, drive, example_of
from fairprune_plugin.errors import ConfigError, NonFiniteError, StaleOptimizerError, TrainingStateError


def test_regularize_before_any_loss() -> None:
    model, pruner = constrained()
    with pytest.raises(TrainingStateError, match="first the pruner's loss of a batch"):
        pruner.regularize(model)


def test_regularize_before_backward() -> None:
    model, pruner = constrained()
    x, y, s = batch(model)
    pruner.loss(model(x), y, s)
    with pytest.raises(TrainingStateError, match=r"before backward\(\)"):
        pruner.regularize(model)


def test_regularize_twice() -> None:
    model, pruner = constrained()
    x, y, s = batch(model)
    pruner.loss(model(x), y, s).backward()
    pruner.regularize(model)
    with pytest.raises(TrainingStateError, match="needs fresh gradients"):
        pruner.regularize(model)


def test_regularize_with_another_model() -> None:
    model, pruner = constrained()
    x, y, s = batch(model)
    pruner.loss(model(x), y, s).backward()
    with pytest.raises(ConfigError, match="another model than the pruner was built for"):
        pruner.regularize(copy.deepcopy(model))
    pruner.regularize(model)  # nothing was used up by the mistake


def test_regularize_after_all_steps() -> None:
    model, pruner = constrained()
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 8))
    x, y, s = batch(model)
    pruner.loss(model(x), y, s).backward()
    with pytest.raises(TrainingStateError, match=r"all 8 planned training steps are done.*call pruner.step\(\)"):
        pruner.regularize(model)


def test_a_plan_after_the_last_round() -> None:
    model, pruner = constrained()
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 8))
    pruner.step()
    with pytest.raises(TrainingStateError, match="build a new BiFPPruner"):
        pruner.plan(8)
    assert model.fc1.out_features == 8


def test_total_steps_missing() -> None:
    model, pruner = constrained(total_steps=None)
    x, y, s = batch(model)
    with pytest.raises(TrainingStateError, match=r"pass total_steps=… to the pruner .* or use fit\(epochs=…\)"):
        pruner.loss(model(x), y, s)


def test_the_plan_cannot_change_in_the_middle() -> None:
    model, pruner = constrained()
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 1))
    pruner.plan(8)  # the same again is fine
    with pytest.raises(TrainingStateError, match="training has begun with total_steps=8: it cannot become 9"):
        pruner.plan(9)


def test_the_old_optimizer_refuses_after_step() -> None:
    model, pruner = constrained()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    drive(pruner, model, optimizer, batches_for(model, 8))
    pruner.step()
    model(example_of(model)).sum().backward()
    with pytest.raises(StaleOptimizerError, match=r"optimizer = pruner.rebuild_optimizer\(optimizer\)"):
        optimizer.step()
    pruner.rebuild_optimizer(optimizer).step()


def test_nan_loss_in_a_loop_of_ones_own() -> None:
    model, pruner = constrained()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    drive(pruner, model, optimizer, batches_for(model, 3))
    state, keep = copy.deepcopy(model.state_dict()), pruner.engine.weights.keep.clone()
    x, y, s = batch(model)
    with pytest.raises(NonFiniteError, match="the loss became nan at training step 3") as raised:
        pruner.loss(model(x * torch.nan), y, s)
    assert "lower the learning rate" in str(raised.value)
    assert torch.equal(pruner.engine.weights.keep, keep)
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key
    # The loop may go on with the next batch.
    drive(pruner, model, optimizer, batches_for(model, 5))
    pruner.step()
    assert torch.isfinite(model(x)).all()
