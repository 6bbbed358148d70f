"""Loops of one's own that look at things in between, or train in another precision: nothing of it shows in the training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import NonFiniteError, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.trainers.session import Session

STEPS = 6


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    s = torch.arange(40) % 2
    return x, (x[:, 0] > 0).long(), s


def build(**options: Any) -> tuple[nn.Sequential, BiFPPruner, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    model.float()
    options = {"pruning_ratio": 0.5, "constraint": EqualOpportunity(0.05), "total_steps": STEPS, **options}
    pruner = BiFPPruner(model, batch()[0][:2], ignored_layers=[model[-1]], **options)
    return model, pruner, torch.optim.SGD(model.parameters(), lr=0.1)


def train(model: nn.Module, pruner: BiFPPruner, optimizer: torch.optim.Optimizer) -> nn.Module:
    for number in range(STEPS):
        x, y, s = batch(number)
        optimizer.zero_grad()
        pruner.loss(model(x), y, s).backward()
        pruner.regularize(model)
        optimizer.step()
    pruner.step()
    return model


@pytest.mark.parametrize("what", ["evaluate", "measure_dense", "loss"])
def test_a_first_look_may_be_in_inference_mode(what: str) -> None:
    expected = train(*build())
    model, pruner, optimizer = build()
    model.eval()
    with torch.inference_mode():
        if what == "loss":
            pruner.loss(model(batch()[0]), *batch()[1:])
        else:
            getattr(pruner, what)([batch()])
    model.train()
    train(model, pruner, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_a_look_at_the_loss_between_a_batch_and_its_step_is_no_batch() -> None:
    """If the batch turns out to be bad, it is its counts that go, as they would without the look."""
    model, pruner, optimizer = build()
    x, y, s = batch()
    for bad in (False, True):
        optimizer.zero_grad()
        counted = {name: value.clone() for name, value in counts(pruner)}
        loss = pruner.loss(model(x), y, s)
        with torch.no_grad():
            pruner.loss(model(x), y, s)
        loss.backward()
        if not bad:
            pruner.regularize(model)
            optimizer.step()
            continue
        model[0].weight.grad.fill_(torch.nan)
        with pytest.raises(NonFiniteError):
            pruner.regularize(model)
        assert all(torch.equal(value, counted[name]) for name, value in counts(pruner))


def counts(pruner: BiFPPruner) -> Iterator[tuple[str, Tensor]]:
    for tracker in pruner.lagrangian.trackers:
        yield from tracker.counts.state_dict().items()


def test_another_default_precision_changes_nothing() -> None:
    expected = train(*build())
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        model, pruner, optimizer = build()
        model.load_state_dict(build_in_float32())
        train(model, pruner, optimizer)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert [p.shape for p in model.parameters()] == [p.shape for p in expected.parameters()]


def build_in_float32() -> dict[str, Tensor]:
    torch.set_default_dtype(torch.float32)
    try:
        return dict(build()[0].state_dict())
    finally:
        torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_multipliers_are_as_fast_in_several_rounds_as_in_one(rounds: int) -> None:
    _, pruner, _ = build(total_steps=400, iterative_steps=rounds)
    model = pruner.model
    x, y, s = batch()
    pruner.loss(model(x), y, s)
    (tracker,) = pruner.lagrangian.trackers
    assert tracker.multipliers.lr == pytest.approx(80 / 400 / 4)  # two groups, two sides


def test_the_channels_may_go_before_the_last_step_and_training_goes_on() -> None:
    """Multipliers move on, a state of any such moment is loaded, and the planned number of steps stands."""
    model, pruner, optimizer = build()
    x, y, s = batch()

    def train(model: nn.Module, pruner: BiFPPruner, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        pruner.loss(model(x), y, s).backward()
        pruner.regularize(model)
        optimizer.step()

    while not pruner.engine.at_target:
        train(model, pruner, optimizer)
    taken = pruner.engine.step_index
    assert taken < STEPS
    pruner.step()
    optimizer = pruner.rebuild_optimizer(optimizer)
    train(model, pruner, optimizer)
    saved = copy.deepcopy((pruner.state_dict(), model.state_dict(), optimizer.state_dict()))

    again, resumed, other = build()
    resumed.load_state_dict(saved[0])
    other = resumed.rebuild_optimizer(other)
    again.load_state_dict(saved[1])
    other.load_state_dict(saved[2])
    for _ in range(taken + 1, STEPS):
        train(model, pruner, optimizer)
        train(again, resumed, other)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for ran in (pruner, resumed):
        assert ran.engine.step_index == STEPS
        with pytest.raises(TrainingStateError, match=f"all {STEPS} planned training steps are done"):
            train(ran.model, ran, optimizer)


def test_parameters_of_the_task_loss_are_stepped_by_their_own_batch_alone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(logits * self.scale, targets)

    task_loss = Scaled()
    model, pruner, _ = build(task_loss=task_loss, pruning_ratio=0.0)
    optimizer = torch.optim.SGD([*model.parameters(), *task_loss.parameters()], lr=0.0)
    slopes: list[float] = []
    optimizer.register_step_post_hook(lambda *_: slopes.append(float(task_loss.scale.grad)))
    pruner.fit([batch()], optimizer, progress=False, recalibration_batches=0)
    assert slopes == pytest.approx([slopes[0]] * STEPS)  # the same batch and the same model
    assert slopes[0] != 0


def test_a_session_does_what_fit_does() -> None:
    """Multipliers by held-out data and the choice of a snapshot; what is not in a session is switched off in ``fit``."""
    held_out = [batch(100 + number) for number in range(3)]
    rate = 1.0  # too high to settle: the best state is not the last
    model, pruner, optimizer = build(total_steps=40, constraint=EqualOpportunity(0.02), multipliers={"lr": 1.0})
    optimizer.param_groups[0]["lr"] = rate
    pruner.fit(
        [batch(number) for number in range(40)],
        optimizer,
        validation=held_out,
        validate_every=4,
        select_by="gap",
        recalibration_batches=0,
        progress=False,
    )
    own, driven, optimizer = build(total_steps=40, constraint=EqualOpportunity(0.02), multipliers={"lr": 1.0})
    optimizer.param_groups[0]["lr"] = rate
    session = Session(driven, validation=held_out, validate_every=4)
    session.begin(total_steps=40, steps_done=0)
    for number in range(40):
        x, y, s = batch(number)
        optimizer.zero_grad()
        session.loss(own(x), y, s).backward()
        session.before_update()
        optimizer.step()
        session.after_update()
    assert session.end()
    multipliers = [p.lagrangian.trackers[0].multipliers.value for p in (pruner, driven)]
    assert bool((multipliers[0] > 0).any())
    assert torch.equal(*multipliers)
    assert session.snapshots.best is not None
    assert session.snapshots.best.step < 40
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), own.state_dict().values(), strict=True))
