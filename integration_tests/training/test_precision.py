"""Reduced precision and loss scaling: the mask learns from gradients of their true size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from driving import SGD, SmallMLP, batches_for, example_of
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import ConfigError, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner

STEPS = 8


def build(**options: Any) -> tuple[SmallMLP, BiFPPruner, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = SmallMLP()
    settings = {"pruning_ratio": 0.5, "total_steps": STEPS, "bilevel": {"ramp_end": 0.9}}
    pruner = BiFPPruner(
        model,
        example_of(model),
        ignored_layers=[model.head],
        constraint=EqualOpportunity(0.02),
        self_check=False,
        **{**settings, **options},
    )
    return model, pruner, SGD(model.parameters(), lr=0.05, momentum=0.9)


def all_weights(model: nn.Module, pruner: BiFPPruner) -> list[torch.Tensor]:
    """The weights, with hidden ones as they left."""
    full = {id(p.parameter): p.full_values() for p in pruner.engine.weights.parameters}
    return [full.get(id(p), p).detach().clone() for p in model.parameters()]


def scaled_run(how: str, scale: float = 2.0**16) -> tuple[nn.Module, BiFPPruner]:
    model, pruner, optimizer = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=how != "off")
    for x, y, s in batches_for(model, STEPS):
        optimizer.zero_grad()
        scaler.scale(pruner.loss(model(x), y, s)).backward()
        if how in ("unscaled", "by hand"):
            scaler.unscale_(optimizer)
        given = {} if how in ("by hand", "forgotten") else {"scaler": scaler, "optimizer": optimizer}
        pruner.regularize(model, **given)
        scaler.step(optimizer)
        scaler.update()
    return model, pruner


@pytest.mark.parametrize("how", ["given", "unscaled", "by hand", "off"])
def test_a_scaled_run_is_the_unscaled_one(how: str) -> None:
    model, pruner, optimizer = build()
    for x, y, s in batches_for(model, STEPS):
        optimizer.zero_grad()
        pruner.loss(model(x), y, s).backward()
        pruner.regularize(model)
        optimizer.step()
    other, scaled = scaled_run(how)
    # A power of two changes no digit.
    assert torch.equal(pruner.engine.weights.keep, scaled.engine.weights.keep)
    assert not pruner.engine.weights.keep.all()
    assert torch.equal(pruner.engine.scores.value(), scaled.engine.scores.value())
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_gradients_that_were_still_scaled_are_noticed() -> None:
    with pytest.raises(TrainingStateError, match=r"still scaled by 1024 .* scaler=scaler"):
        scaled_run("forgotten", scale=1024.0)


def test_a_weighted_loss_is_no_scaled_one() -> None:
    model, pruner, optimizer = build()
    for x, y, s in batches_for(model, 3):
        optimizer.zero_grad()
        (8 * pruner.loss(model(x), y, s)).backward()
        pruner.regularize(model)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


@pytest.mark.parametrize("at", [0, 1, 3], ids=["weight-step", "first-mask-step", "mask-step"])
def test_a_step_that_overflows_teaches_nothing_and_the_run_goes_on(at: int) -> None:
    model, pruner, optimizer = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for number, (x, y, s) in enumerate(batches_for(model, STEPS)):
        optimizer.zero_grad()
        scaler.scale(pruner.loss(model(x), y, s)).backward()
        if number == at:
            model.fc2.weight.grad[0, 0] = torch.inf
            before = all_weights(model, pruner)
            scores, lam = pruner.engine.scores.second.clone(), pruner.lagrangian.trackers[0].multipliers.value.clone()
        pruner.regularize(model, scaler=scaler, optimizer=optimizer)
        if number == at:
            assert torch.equal(pruner.engine.scores.second, scores)
            assert torch.equal(pruner.lagrangian.trackers[0].multipliers.value, lam)
        scaler.step(optimizer)
        scaler.update()
        if number == at:
            assert scaler.get_scale() == 2.0**9
            assert all(torch.equal(*pair) for pair in zip(all_weights(model, pruner), before, strict=True))
        assert torch.isfinite(pruner.engine.scores.value()).all()
    assert (model.fc1.out_features, int((~pruner.engine.weights.keep).sum())) == (16, 16)
    masked = model.eval()(x)
    pruner.step()
    torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-6)


def test_mistakes_with_a_scaler_are_named() -> None:
    model, pruner, optimizer = build()
    x, y, s = batches_for(model, 1)[0]
    scaler = torch.amp.GradScaler("cpu")
    pruner.loss(model(x), y, s).backward()
    with pytest.raises(ConfigError, match="needs the optimizer too"):
        pruner.regularize(model, scaler=scaler)
    with pytest.raises(ConfigError, match=r"expected scaler as a torch.amp.GradScaler, got 1"):
        pruner.regularize(model, scaler=1, optimizer=optimizer)
    with pytest.raises(
        ConfigError, match=r"expected optimizer as a torch.optim.Optimizer, or a list of several, got 5"
    ):
        pruner.regularize(model, scaler=scaler, optimizer=5)
    with pytest.raises(ConfigError, match=r"expected regularize\(model\) with the pruner's model.* got None"):
        pruner.regularize(None)
    with pytest.raises(TrainingStateError, match=r"scaler.scale\(loss\).backward\(\)"):
        pruner.regularize(model, scaler=scaler, optimizer=optimizer)


def test_several_optimizers_are_all_unscaled() -> None:
    model, pruner, _ = build()
    optimizers = [
        SGD([p for p in model.parameters() if (p is model.head.weight) == last], lr=0.05, momentum=0.9)
        for last in (False, True)
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for number, (x, y, s) in enumerate(batches_for(model, STEPS)):
        model.zero_grad()
        scaler.scale(pruner.loss(model(x), y, s)).backward()
        if number == 0:
            with pytest.raises(ConfigError, match=r"1 parameters with a gradient \(head.weight, …\) are in none"):
                pruner.regularize(model, scaler=scaler, optimizer=optimizers[0])
        pruner.regularize(model, scaler=scaler, optimizer=optimizers)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    other, expected = scaled_run("given")
    assert torch.equal(pruner.engine.scores.value(), expected.engine.scores.value())
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_autocast_to_bfloat16() -> None:
    model, pruner, optimizer = build()
    for x, y, s in batches_for(model, STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x)
        assert logits.dtype == torch.bfloat16
        loss = pruner.loss(logits.float(), y, s)
        loss.backward()
        pruner.regularize(model)
        optimizer.step()
    assert int((~pruner.engine.weights.keep).sum()) == 16
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    masked = model.eval()(x)
    pruner.step()
    torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_constraint_is_computed_in_float32(dtype: torch.dtype) -> None:
    """Its part of the loss, the mask's derivative and the multipliers, even if all of them are under autocast."""
    model, pruner, optimizer = build()
    twin, other, its_optimizer = build()
    for x, y, s in batches_for(model, STEPS):
        with torch.autocast("cpu", dtype):
            logits = model(x)
            assert logits.dtype == dtype
            loss = pruner.loss(logits, y, s)
        loss.backward()
        with torch.autocast("cpu", dtype):
            pruner.regularize(model)
        with torch.autocast("cpu", dtype):
            logits = twin(x).float()
        expected = other.loss(logits, y, s)
        expected.backward()
        other.regularize(twin)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected)
        for one in (optimizer, its_optimizer):
            one.step()
            one.zero_grad()
    assert other.engine.scores.updates > 0
    assert float(other.lagrangian.trackers[0].multipliers.value.max()) > 0
    assert torch.equal(pruner.engine.scores.value(), other.engine.scores.value())
    assert torch.equal(pruner.lagrangian.trackers[0].multipliers.value, other.lagrangian.trackers[0].multipliers.value)
