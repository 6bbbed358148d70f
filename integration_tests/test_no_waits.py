"""A training step on an accelerator waits for no value, and computes what it computes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accelerator import elsewhere, here, move, waits
from driving import SGD, SmallCNN, SmallMLP, batches_for, example_of, output_layer
from fairprune_plugin import (
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    LossParity,
)
from fairprune_plugin.engine.loaders.batches import default_forward
from fairprune_plugin.engine.run.validation_stream import ValidationStream
from fairprune_plugin.errors import DataError, FairPruneError, NonFiniteError
from fairprune_plugin.torch_pruning import BiFPPruner

STEPS = 8
# The first step moves counts and multipliers to the device and looks for probabilities; what it does is done once.
FIRST = 1


class NormMLP(nn.Module):
    """A layer norm over pruned channels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.head = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.fc1(x)).sigmoid())
        return y


def run(
    kind: Callable[[], nn.Module], *, there: bool, labels: int = 2, groups: Any = None, **options: Any
) -> tuple[list[list[str]], dict[str, Tensor]]:
    """Trains; returns what each step waited for, and the state at the end."""
    torch.manual_seed(0)
    model = kind()
    place: Callable[[Any], Any] = elsewhere if there else (lambda value: value)
    waited: list[list[str]] = []
    with waits() if there else nullcontext([]) as seen:
        if there:
            move(model)
        settings = {"pruning_ratio": 0.5, "constraint": EqualOpportunity(0.02), "bilevel": {"ramp_end": 0.9}}
        pruner = BiFPPruner(
            model,
            place(example_of(model)),
            ignored_layers=[output_layer(model)],
            total_steps=STEPS,
            self_check=False,  # the pretended device does not prune; that it computes alike is what the test says
            **{**settings, **options},
        )
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        batches = [(place(x), place(y), place(s)) for x, y, s in batches_for(model, STEPS, classes=labels)]
        if groups is not None:
            batches = [(x, y, groups(s)) for x, y, s in batches]
        if any(c.relative_to_dense for c in pruner.lagrangian.constraints):
            pruner.measure_dense(batches, split="train")
        model.train()
        for x, y, s in batches:
            before = len(seen)
            optimizer.zero_grad()
            pruner.loss(model(x), y, s).backward()
            pruner.regularize(model)
            optimizer.step()
            waited.append(seen[before:])
        tracker = pruner.lagrangian.trackers[0]
        state = {
            **model.state_dict(),
            "keep": pruner.engine.weights.keep,
            "scores": pruner.engine.scores.value(),
            "multipliers": tracker.multipliers.value,
            "hits": tracker.counts.hits,
        }
        state = {key: here(value) if there else value.clone() for key, value in state.items()}
    return waited, state


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "channels": (SmallCNN, {}),
    "params": (SmallMLP, {"target": "params", "multipliers": {"rule": "nupi", "margin": 1.0}}),
    "rounded": (SmallMLP, {"target": "params", "round_to": 4, "multipliers": {"rule": "augmented"}}),
    "global-rounded": (SmallMLP, {"global_pruning": True, "round_to": 4, "constraint": DemographicParity(0.02)}),
    "layer-norm": (NormMLP, {"bilevel": {"joint": True, "score_rule": "gradient", "ramp_end": 0.9}}),
    "degradation": (SmallMLP, {"constraint": [DegradationParity(0.02, min_group_size=2), LossParity(0.1)]}),
    "macro": (lambda: SmallMLP(classes=3), {"labels": 3, "constraint": EqualizedOdds(0.05, average="macro")}),
    "ages": (SmallMLP, {"constraint": EqualOpportunity(0.02, groups=(18, 65)), "groups": lambda s: s * 47 + 18}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_for_nothing_and_computes_the_same(name: str) -> None:
    kind, options = CASES[name]
    waited, there = run(kind, there=True, **options)
    _, own = run(kind, there=False, **options)
    assert waited[FIRST:] == [[]] * (STEPS - FIRST)
    assert set(there) == set(own)
    assert torch.equal(there["keep"], own["keep"])
    assert not own["keep"].all()
    for key, value in own.items():  # up to the order of sums
        torch.testing.assert_close(there[key], value, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_held_out_batches_wait_for_nothing() -> None:
    model = SmallMLP()
    with waits() as seen:
        move(model)
        pruner = BiFPPruner(
            model,
            elsewhere(example_of(model)),
            ignored_layers=[model.head],
            pruning_ratio=0.5,
            total_steps=STEPS,
            self_check=False,
            constraint=EqualOpportunity(0.02),
        )
        loader = [tuple(map(elsewhere, batch)) for batch in batches_for(model, 3)]
        stream = ValidationStream(loader, window=4, every=2, forward=default_forward)
        for number in range(4):
            before = len(seen)
            stream.dual_step(model, pruner.lagrangian)
            assert number == 0 or seen[before:] == []
        pruner.lagrangian.checks.settle()


# ---- bad steps -----------------------------------------------------------------------------------------------


def nan_input(x: Tensor, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone()
    x[0] = torch.nan
    return x, y, s


BAD: dict[str, tuple[Callable[..., Any], type[FairPruneError], str]] = {
    "nan": (nan_input, NonFiniteError, "training step"),
    "target": (lambda x, y, s: (x, y + 5, s), DataError, r"targets in \[0, 2\)"),
    "fraction": (lambda x, y, s: (x, y + 0.5, s), DataError, "not whole numbers"),
    "group": (lambda x, y, s: (x, y, s + 7), DataError, "never declared"),
    "nan-group": (lambda x, y, s: (x, y, s / 0.0), DataError, "NaN or infinite ids"),
}


def state_of(pruner: BiFPPruner) -> dict[str, Tensor]:
    tracker = pruner.lagrangian.trackers[0]
    scores = pruner.engine.scores
    state = {
        **pruner.model.state_dict(),
        "first": scores.first,
        "second": scores.second,
        "multipliers": tracker.multipliers.value,
        **tracker.counts.state_dict(),
    }
    return {key: value.clone() for key, value in state.items()}


@pytest.mark.parametrize("at", [2, 3], ids=["weight-step", "mask-step"])
@pytest.mark.parametrize("kind", [*BAD, "gradient"])
def test_a_bad_step_changes_nothing_and_is_reported_with_the_next(kind: str, at: int) -> None:
    model = SmallCNN()
    pruner = BiFPPruner(
        model,
        example_of(model),
        ignored_layers=[model.fc],
        pruning_ratio=0.5,
        total_steps=STEPS,
        constraint=EqualOpportunity(0.02),
        bilevel={"ramp_end": 0.9, "warmup": 0.0, "schedule": "constant"},
        multipliers={"rule": "nupi"},
    )
    pruner.lagrangian.checks.deferred = True
    optimizer = SGD(model.parameters(), lr=0.05)
    bad, expected, message = BAD.get(kind, (lambda *batch: batch, NonFiniteError, "gradient became NaN"))

    def step(x: Tensor, y: Tensor, s: Tensor, *, spoilt: bool = False) -> None:
        optimizer.zero_grad()
        pruner.loss(model(x), y, s).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            if spoilt:
                parameter.grad.fill_(torch.inf)
        pruner.regularize(model)
        optimizer.step()

    *earlier, batch, other = batches_for(model, at + 2)
    for early in earlier:
        step(*early)
    before = state_of(pruner)
    step(*bad(*batch), spoilt=kind == "gradient")
    after = state_of(pruner)
    # (A mask follows its schedule even so, with the scores of the step before; here it has its size already.)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    counted = {"hits", "squares", "totals", "samples"} if kind == "gradient" else set()  # the batch itself was good
    assert changed <= counted
    with pytest.raises(expected, match=message) as caught:
        step(*other)
    assert "some steps later" in caught.value.__notes__[0]
    for _ in range(2):  # the run can go on: one of them is a weight step
        step(*other)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert not torch.equal(model.conv1.weight, before["conv1.weight"])


def test_what_is_still_on_its_way_is_raised_before_channels_go() -> None:
    model = SmallMLP()
    pruner = BiFPPruner(model, example_of(model), ignored_layers=[model.head], pruning_ratio=0.5, total_steps=4)
    pruner.lagrangian.checks.deferred = True
    optimizer = SGD(model.parameters(), lr=0.05)
    for number, (x, y, _) in enumerate(batches_for(model, 4)):
        optimizer.zero_grad()
        pruner.loss(model(x * torch.inf if number == 3 else x), y).backward()
        pruner.regularize(model)
        optimizer.step()
    for act in (pruner.state_dict, lambda: pruner.evaluate(batches_for(model, 1)), pruner.step):
        sent = list(pruner.lagrangian.checks._sent)
        with pytest.raises(NonFiniteError, match="training step 3"):
            act()
        pruner.lagrangian.checks._sent.extend(sent)
