"""Batches, a pruner and the loop of the user's own that a trainer must not differ from."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from driving import SmallMLP, example_of, output_layer
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner

EPOCHS, MICRO_BATCHES, BATCH = 3, 8, 16
TOO_LARGE = 2.0**20
CLIPPED_AT = 0.05  # norm of the gradients


def samples(count: int = MICRO_BATCHES * BATCH, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Labels that follow from the inputs, less so for the second group."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=generator)
    s = torch.randint(0, 2, (count,), generator=generator)
    return torch.randn(count, 6, generator=generator) + y[:, None] * (1.5 - s[:, None]), y, s


def batches(count: int = MICRO_BATCHES, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The samples, cut into batches."""
    return list(zip(*(part.split(BATCH) for part in samples(count * BATCH, seed)), strict=True))


def network() -> SmallMLP:
    """Always the same weights."""
    torch.manual_seed(0)
    return SmallMLP()


def pruner_of(model: nn.Module, example: Any = None, **options: Any) -> BiFPPruner:
    """A pruner of the network, or of a module around it, with a constraint that is violated."""
    example, output = example_of(model) if example is None else example, output_layer(model)
    constraint = EqualOpportunity(tolerance=0.02)
    settings = {"pruning_ratio": 0.5, "ignored_layers": [output], "constraint": constraint, "self_check": False}
    return BiFPPruner(model, example, **{**settings, **options})


def own_loop(
    *,
    clip_before: bool = False,
    clip_after: bool = False,
    accumulate: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    remove_early: bool = False,
    **options: Any,
) -> tuple[SmallMLP, BiFPPruner]:
    """What the trainers' users would write without a trainer.

    Args:
        clip_before: Whether gradients are clipped before ``regularize()``.
        clip_after: Whether they are clipped after it.
        accumulate: Batches in one optimizer step.
        scaler: With one, in float16.
        remove_early: Whether channels go as soon as the mask is final.
        **options: Of the pruner.
    """
    model = network()
    scaler = torch.amp.GradScaler("cpu", enabled=False) if scaler is None else scaler
    pruner = pruner_of(model, total_steps=EPOCHS * MICRO_BATCHES // accumulate, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for number, (x, y, s) in enumerate(batches() * EPOCHS):
        with torch.autocast("cpu", torch.float16, enabled=scaler.is_enabled()):
            logits = model(x).float()
        scaler.scale(pruner.loss(logits, y, s) / accumulate).backward()
        if (number + 1) % accumulate == 0:
            scaler.unscale_(optimizer)
            if clip_before:
                nn.utils.clip_grad_norm_(model.parameters(), CLIPPED_AT)
            pruner.regularize(model, scaler=scaler, optimizer=optimizer)
            if clip_after:
                nn.utils.clip_grad_norm_(model.parameters(), CLIPPED_AT)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            rounds, engine = pruner.rounds_left(), pruner.engine
            if engine.finished if rounds > 1 else remove_early and rounds and engine.at_target:
                pruner.step()
                pruner.rebuild_optimizer(optimizer)
    if pruner.rounds_left():
        pruner.step()
    return model, pruner


class Exchanging(torch.optim.SGD):
    """As schedule-free optimizers are."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


def large_scale() -> torch.amp.GradScaler:
    """Its first steps overflow in float16, and are left out."""
    return torch.amp.GradScaler("cpu", init_scale=TOO_LARGE)


def assert_steps_were_left_out(scaler: torch.amp.GradScaler) -> None:
    """Some, not all: it halves the scale at each."""
    left_out = math.log2(TOO_LARGE / scaler.get_scale())
    assert 1 <= left_out <= 4, left_out


def assert_same(model: nn.Module, pruner: BiFPPruner, expected: tuple[nn.Module, BiFPPruner]) -> None:
    """Mask, weights, running statistics and multipliers, to the last bit."""
    for own_round, their_round in zip(pruner.removed_rounds, expected[1].removed_rounds, strict=True):
        assert torch.equal(own_round, their_round)
    theirs = expected[0].state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    for own, other in zip(pruner.lagrangian.trackers, expected[1].lagrangian.trackers, strict=True):
        assert torch.equal(own.multipliers.value, other.multipliers.value)
        assert bool((own.multipliers.value > 0).any()), "the constraint plays a role in this run"


def assert_good_and_smaller(network: SmallMLP, pruner: BiFPPruner) -> None:
    """At the target size, of finite weights, under a constraint that had a say."""
    assert network.fc1.out_features == 8
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    assert float(pruner.lagrangian.trackers[0].multipliers.value.max()) > 0
