"""Watching the user's optimizer, refusing a stale one, and rebuilding it for the smaller model."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from fairprune_plugin.engine.optimizers import OptimizerWatch, kept_positions, rebuild, refuse_replaced
from fairprune_plugin.errors import StaleOptimizerError


def step(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> None:
        self.calls += 1


def test_only_optimizers_of_watched_parameters_call_back() -> None:
    ours, other, counter = nn.Linear(2, 2), nn.Linear(2, 2), Counter()
    watch = OptimizerWatch(ours.parameters(), counter.count)
    mine, foreign = SGD(ours.parameters(), lr=0.1), Adam(other.parameters(), lr=0.1)
    mixed = SGD([{"params": list(other.parameters())}, {"params": [ours.bias]}], lr=0.1)
    for expected, optimizer in ((1, mine), (1, foreign), (2, mixed), (3, mine)):
        step(optimizer)
        assert counter.calls == expected
    watch.stop()
    step(foreign)
    assert counter.calls == 3


def test_a_stopped_watch_refuses_the_optimizers_it_saw() -> None:
    ours, other, counter = nn.Linear(2, 2), nn.Linear(2, 2), Counter()
    watch = OptimizerWatch(ours.parameters(), counter.count)
    mine, foreign = SGD(ours.parameters(), lr=0.1), SGD(other.parameters(), lr=0.1)
    step(mine)
    step(foreign)
    watch.stop()
    before = ours.weight.detach().clone()
    with pytest.raises(StaleOptimizerError, match="rebuild_optimizer"):
        step(mine)
    assert torch.equal(ours.weight, before)
    step(foreign)
    assert counter.calls == 1


def test_a_forgotten_owner_and_its_watch_are_collected() -> None:
    model, counter = nn.Linear(2, 2), Counter()
    watch = OptimizerWatch(model.parameters(), counter.count)
    optimizer = SGD(model.parameters(), lr=0.1)
    step(optimizer)
    seen = weakref.ref(counter), weakref.ref(watch)
    del counter
    step(optimizer)  # the owner is gone: nothing to call
    del watch
    gc.collect()
    assert seen[0]() is None
    assert seen[1]() is None
    step(optimizer)


def test_a_plain_function_is_called() -> None:
    model, calls = nn.Linear(2, 2), []

    def after() -> None:
        calls.append(1)

    watch = OptimizerWatch(model.parameters(), after)
    step(SGD(model.parameters(), lr=0.1))
    assert calls == [1]
    watch.stop()


MAKERS: dict[str, Callable[[list[dict]], Optimizer]] = {
    "sgd": lambda groups: SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda groups: Adam(groups, lr=0.1, betas=(0.8, 0.95), amsgrad=True),
    "adamw": lambda groups: AdamW(groups, lr=0.1, weight_decay=0.3),
    "rmsprop": lambda groups: RMSprop(groups, lr=0.1, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_rebuilt_optimizer_steps_as_the_old_one_would_on_what_is_left(make) -> None:
    """The updates of these optimizers are elementwise, so that the smaller run is a slice of the larger one."""
    weight, bias, other = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 3), (4,), (2,)))
    old = make([{"params": [weight], "lr": 0.05}, {"params": [bias, other]}])
    for _ in range(3):
        step(old)
    rows, columns = torch.tensor([0, 2, 3]), torch.tensor([0, 2])
    small_weight = nn.Parameter(weight.detach()[rows][:, columns].clone())
    small_bias = nn.Parameter(bias.detach()[rows].clone())
    own_weight, own_bias, own_other, new = copy.deepcopy((weight, bias, other, old))
    renewed = {own_weight: (small_weight, [rows, columns]), own_bias: (small_bias, [rows])}
    assert rebuild(new, renewed) is new
    assert [group["params"] for group in new.param_groups] == [[small_weight], [small_bias, own_other]]
    assert set(new.state) == {small_weight, small_bias, own_other}
    for before, after in zip(old.param_groups, new.param_groups, strict=True):
        assert {k: v for k, v in before.items() if k != "params"} == {k: v for k, v in after.items() if k != "params"}
    assert new.defaults["lr"] == 0.1
    start = other.detach().clone()
    for _ in range(2):
        for parameter in (weight, bias, other):
            parameter.grad = torch.randn_like(parameter)
        small_weight.grad, small_bias.grad = weight.grad[rows][:, columns].clone(), bias.grad[rows].clone()
        own_other.grad = other.grad.clone()
        new.step()
        old.step()
    assert torch.equal(other, own_other)
    torch.testing.assert_close(small_weight.detach(), weight.detach()[rows][:, columns])
    torch.testing.assert_close(small_bias.detach(), bias.detach()[rows])
    assert not torch.equal(other, start)


def test_a_fresh_optimizer_without_state_is_rebuilt_too() -> None:
    weight, small = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))
    new = rebuild(Adam([weight], lr=0.2), {weight: (small, [torch.tensor([0, 1])])})
    step(new)
    assert new.param_groups[0]["lr"] == 0.2


class Clipped(SGD):
    """A user's own: a constructor of another form, and settings that are in no group."""

    def __init__(self, model: nn.Module, max_norm: float) -> None:
        super().__init__(model.parameters(), lr=0.1, momentum=0.9)
        self.max_norm, self.steps = max_norm, 0

    def step(self, closure: object = None) -> None:
        self.steps += 1
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], self.max_norm)
        super().step()


class Around(Optimizer):
    """One that wraps another and shares its groups, as sharpness-aware minimization does."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base
        self.param_groups = base.param_groups

    def step(self, closure: object = None) -> None:
        self.base.step()


def halved(model: nn.Linear) -> dict:
    """The first row of a layer with two stays."""
    rows = torch.tensor([0])
    return {p: (nn.Parameter(p.detach()[rows].clone()), [rows]) for p in model.parameters()}


def test_what_belongs_to_an_optimizer_stays() -> None:
    """Settings, hooks, and what others hold of it: schedulers of any form."""
    model, counter = nn.Linear(3, 2), Counter()
    optimizer = Clipped(model, max_norm=0.5)
    optimizer.register_step_post_hook(lambda *_: counter.count())
    schedule, group = ExponentialLR(optimizer, 0.5), optimizer.param_groups[0]
    step(optimizer)
    calls = counter.calls
    rebuild(optimizer, halved(model))
    step(optimizer)
    schedule.step()
    assert (optimizer.max_norm, optimizer.steps, counter.calls) == (0.5, 2, 2 * calls)
    assert optimizer.param_groups[0] is group
    assert group["lr"] == 0.05
    assert [tuple(p.shape) for p in group["params"]] == [(1, 3), (1,)]


def test_a_wrapped_optimizer_comes_along() -> None:
    model = nn.Linear(3, 2)
    optimizer = Around(Adam(model.parameters(), lr=0.1))
    step(optimizer)
    moment = optimizer.base.state[model.weight]["exp_avg"].clone()
    renewed = halved(model)
    rebuild(optimizer, renewed)
    small = renewed[model.weight][0]
    assert torch.equal(optimizer.base.state[small]["exp_avg"], moment[:1])
    before = small.detach().clone()
    step(optimizer)
    assert not torch.equal(small, before)


def test_lbfgs_begins_anew_on_the_smaller_model() -> None:
    model, x = nn.Linear(3, 2), torch.randn(8, 3)
    optimizer = LBFGS(model.parameters(), lr=0.5)

    def closure() -> torch.Tensor:
        weight, bias = optimizer.param_groups[0]["params"]
        optimizer.zero_grad()
        loss = ((x @ weight.T + bias) ** 2).sum()
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    rebuild(optimizer, halved(model))
    before = float(closure())
    optimizer.step(closure)
    assert float(closure()) < before or before < 1e-8


def test_a_refused_optimizer_steps_again_once_it_is_rebuilt() -> None:
    model = nn.Linear(3, 2)
    watch = OptimizerWatch(model.parameters(), lambda: None)
    optimizer = SGD(model.parameters(), lr=0.1)
    step(optimizer)
    watch.stop()
    with pytest.raises(StaleOptimizerError):
        refuse_replaced(optimizer)
    rebuild(optimizer, halved(model))
    refuse_replaced(optimizer)
    step(optimizer)


def test_kept_positions() -> None:
    kept = kept_positions(nn.Parameter(torch.zeros(4, 3)), {0: torch.tensor([1, 3])})
    assert [positions.tolist() for positions in kept] == [[0, 2], [0, 1, 2]]


def test_a_watch_that_is_collected_during_a_step_disturbs_no_optimizer() -> None:
    """torch walks its global hooks while the last reference to a forgotten pruner's watch goes."""
    watches = [OptimizerWatch([], lambda: None)]
    weight = nn.Parameter(torch.ones(1))

    def forget(*_: object) -> None:
        watches.clear()
        gc.collect()

    handle = register_optimizer_step_post_hook(forget)
    later = OptimizerWatch([weight], lambda: None)  # a hook behind the one that goes
    weight.grad = torch.ones(1)
    SGD([weight], lr=0.5).step()
    assert weight.item() == 0.5
    handle.remove()
    later.stop()
