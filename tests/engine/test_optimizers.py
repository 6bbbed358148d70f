"""Watching the user's optimizer, refusing a stale one, and rebuilding it for the smaller model."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.optimizer import register_optimizer_step_post_hook

from fairprune_plugin.engine.optimizers import OptimizerWatch, kept_positions, rebuild
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
    new = rebuild(old, {weight: (small_weight, [rows, columns]), bias: (small_bias, [rows])})
    assert type(new) is type(old)
    assert [group["params"] for group in new.param_groups] == [[small_weight], [small_bias, other]]
    for before, after in zip(old.param_groups, new.param_groups, strict=True):
        assert {k: v for k, v in before.items() if k != "params"} == {k: v for k, v in after.items() if k != "params"}
    assert new.defaults["lr"] == 0.1
    start = other.detach().clone()
    for state in old.state.values():  # both go on here, which a user's cannot; they may share the step count
        state.update({key: value.clone() for key, value in state.items() if isinstance(value, torch.Tensor)})
    for _ in range(2):
        for parameter in (weight, bias, other):
            parameter.grad = torch.randn_like(parameter)
        small_weight.grad, small_bias.grad = weight.grad[rows][:, columns].clone(), bias.grad[rows].clone()
        new.step()
        new_other = other.detach().clone()
        old_other_grad, other.grad = other.grad, None  # `other` is in both: moved once, by the new one
        old.step()
        other.grad = old_other_grad
        assert torch.equal(other, new_other)
    torch.testing.assert_close(small_weight.detach(), weight.detach()[rows][:, columns])
    torch.testing.assert_close(small_bias.detach(), bias.detach()[rows])
    assert not torch.equal(other, start)


def test_a_fresh_optimizer_without_state_is_rebuilt_too() -> None:
    weight, small = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))
    new = rebuild(Adam([weight], lr=0.2), {weight: (small, [torch.tensor([0, 1])])})
    step(new)
    assert new.param_groups[0]["lr"] == 0.2


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
