"""Ways to drive the optimizer: accumulation, clipping, schedulers, optimizers that swap weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from driving import SGD, SmallMLP, batches_for, drive, example_of
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner

STEPS = 8


class PlainMLP(nn.Module):
    """Without batch norm, so that a batch is the sum of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.fc2(self.fc1(x).relu()).relu())
        return y


STRICT = {"ramp_end": 0.9, "joint": False}  # the first step leaves the mask alone


def build(model: Any, **options: Any) -> BiFPPruner:
    settings = {"pruning_ratio": 0.5, "total_steps": STEPS, "bilevel": {"ramp_end": 0.9}, "self_check": False}
    return BiFPPruner(model, example_of(model), ignored_layers=[model.head], **{**settings, **options})


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    keeps, states = [], []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = PlainMLP()
        pruner, optimizer = build(model), SGD(model.parameters(), lr=0.05, momentum=0.9)
        for x, y, _ in batches_for(model, STEPS):
            optimizer.zero_grad()
            for inputs, targets in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (pruner.loss(model(inputs), targets) / parts).backward()
            pruner.regularize(model)
            optimizer.step()
        keeps.append(pruner.engine.weights.keep)
        states.append(model.state_dict())
        assert pruner.engine.step_index == STEPS
    assert torch.equal(*keeps)
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)


def test_multipliers_move_once_for_all_accumulated_batches() -> None:
    model = SmallMLP()
    pruner = build(model, constraint=EqualOpportunity(0.02))
    optimizer = SGD(model.parameters(), lr=0.05)
    for x, y, s in batches_for(model, 3):
        optimizer.zero_grad()
        for part in (slice(None, None, 2), slice(1, None, 2)):
            (pruner.loss(model(x[part]), y[part], s[part]) / 2).backward()
        pruner.regularize(model)
        optimizer.step()
    (tracker,) = pruner.lagrangian.trackers
    assert tracker.steps == 3
    assert pruner.lagrangian.batches == 6


def test_clipping_after_regularize_sees_the_gradients_of_shown_weights_only() -> None:
    model = SmallMLP()
    pruner, optimizer = build(model, bilevel=STRICT), SGD(model.parameters(), lr=0.05, momentum=0.9)
    norms = []
    for x, y, _ in batches_for(model, STEPS):
        optimizer.zero_grad()
        pruner.loss(model(x), y).backward()
        whole = {parameter: parameter.grad.clone() for parameter in model.parameters()}
        pruner.regularize(model)
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        if pruner.engine._weights_move:
            for parameter in (model.fc2.weight, model.head.weight):
                whole[parameter][:, (parameter == 0).all(0)] = 0
            expected = torch.stack([gradient.norm() for gradient in whole.values()]).norm()
            torch.testing.assert_close(norms[-1], float(expected), rtol=1e-5, atol=0)
            left = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
            assert left <= 0.5 * (1 + 1e-5)
        optimizer.step()
    assert [norm == 0 for norm in norms] == [False, True] * 3 + [True, False]  # a mask step leaves no gradients


def test_a_scheduler_moves_the_learning_rate_and_nothing_else() -> None:
    model = SmallMLP()
    pruner, optimizer = build(model), torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    drive(pruner, model, optimizer, batches_for(model, STEPS), lambda _: scheduler.step())
    assert optimizer.param_groups[0]["lr"] < 1e-6
    assert int((~pruner.engine.weights.keep).sum()) == 16
    pruner.step()
    fresh = pruner.rebuild_optimizer(optimizer)
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al., 2024): trains at y, is judged at the average x, and keeps z."""

    def __init__(self, params: Iterable[Any], lr: float = 0.05, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            share, lr, beta = 1 / (group["k"] + 1), group["lr"], group["beta"]
            for p in group["params"]:
                if p.grad is not None:
                    z = self.state[p].setdefault("z", p.detach().clone())
                    p.lerp_(z, share).add_(p.grad, alpha=lr * (beta * (1 - share) - 1))
                    z.sub_(lr * p.grad)
            group["k"] += 1

    @torch.no_grad()
    def swap(self, weight: float) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.lerp_(self.state[p]["z"], weight)

    def eval(self) -> None:
        self.swap(1 - 1 / self.param_groups[0]["beta"])

    def train(self) -> None:
        self.swap(1 - self.param_groups[0]["beta"])


def test_weights_that_a_schedule_free_optimizer_swaps_stay_hidden() -> None:
    model = SmallMLP()
    pruner, optimizer = build(model, bilevel=STRICT), ScheduleFree(model.parameters())

    def hidden_columns() -> Tensor:
        columns = [(layer.weight == 0).all(0).sum() for layer in (model.fc2, model.head)]
        return torch.stack(columns).sum()

    def look(step: int) -> None:
        hidden = int((~pruner.engine.weights.keep).sum())
        for swap in (optimizer.eval, optimizer.train):
            swap()
            pruner.apply_mask()
            assert hidden_columns() == hidden

    drive(pruner, model, optimizer, batches_for(model, STEPS), look)
    optimizer.eval()
    assert hidden_columns() == 0  # the average is of other weights
    pruner.apply_mask()
    x = example_of(model)
    masked = model.eval()(x)
    pruner.step()
    assert model.fc1.out_features == 8
    torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-6)


def test_an_average_kept_beside_fit_does_not_become_smaller() -> None:
    """Why averages are for loops of one's own: what a hook averages are dense weights, and the model is smaller then."""
    model = PlainMLP()
    average = AveragedModel(model)
    optimizer = SGD(model.parameters(), lr=0.05)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    result = build(model, total_steps=None).fit(batches_for(model, STEPS), optimizer, epochs=1, progress=False)
    assert int(average.n_averaged) == STEPS
    with pytest.raises(RuntimeError, match="size mismatch"):
        result.model.load_state_dict(average.module.state_dict())
