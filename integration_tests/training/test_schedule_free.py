"""Schedule-free optimizers inside of ``fit``: trained at one point, judged and kept at the average, masked at both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from driving import SGD, SmallMLP, batches_for, drive, example_of
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.torch_pruning import BiFPPruner

schedulefree = pytest.importorskip("schedulefree")

STEPS = 16
LATER = {"warmup": 0.2, "ramp_end": 0.5}  # nothing is hidden before the optimizer has begun
KINDS = {
    "SGD": lambda parameters: schedulefree.SGDScheduleFree(parameters, lr=0.2, weight_decay=0.01),
    "AdamW": lambda parameters: schedulefree.AdamWScheduleFree(parameters, lr=0.02, weight_decay=0.1),
}


def build(kind: str = "SGD", **options: Any) -> tuple[SmallMLP, BiFPPruner, Any]:
    torch.manual_seed(0)
    model = SmallMLP()
    settings = {"pruning_ratio": 0.5, "ignored_layers": [model.head], "total_steps": STEPS, "self_check": False}
    constraint = EqualOpportunity(0.02)
    pruner = BiFPPruner(model, example_of(model), constraint=constraint, **{**settings, **options})
    return model, pruner, KINDS[kind](model.parameters())


def fit(pruner: BiFPPruner, optimizer: Any, **options: Any) -> Any:
    settings = {"progress": False, "recalibration_batches": 0, **options}
    return pruner.fit(batches_for(pruner.model, STEPS), optimizer, **settings)


def held_out(model: nn.Module) -> Any:
    return batches_for(model, 4, seed=1)


def hidden_columns(model: SmallMLP) -> int:
    return sum(int((layer.weight == 0).all(0).sum()) for layer in (model.fc2, model.head))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_judged_is_what_comes_out(kind: str) -> None:
    """At every evaluation hidden columns are zero, and the network that comes out is one that was judged."""
    model, pruner, optimizer = build(kind)
    x, outputs = held_out(model)[0][0], []

    def look(row: Any) -> None:
        assert not optimizer.param_groups[0]["train_mode"]
        assert hidden_columns(model) == int((~pruner.engine.weights.keep).sum())
        with torch.no_grad():
            model.eval()
            outputs.append((row, model(x)))

    result = fit(pruner, optimizer, validation=held_out(model), validate_every=2, on_evaluation=look)
    assert model.fc1.out_features == 8
    candidates = [judged for row, judged in outputs if row.at_target and row.accuracy == result.after.accuracy]
    pruned = model.eval()(x)
    assert min(float((judged - pruned).detach().abs().max()) for judged in candidates) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_loop_of_ones_own(kind: str) -> None:
    model, pruner, optimizer = build(kind, bilevel=LATER)
    optimizer.train()
    drive(pruner, model, optimizer, batches_for(model, STEPS))
    optimizer.eval()
    hidden = int((~pruner.engine.weights.keep).sum())
    assert hidden_columns(model) == 0 < hidden, "the average is of other weights"
    pruner.apply_mask()
    pruner.step()
    other, its_pruner, its_optimizer = build(kind, bilevel=LATER)
    fit(its_pruner, its_optimizer)
    assert_same(other, model)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_hidden_in_the_first_step_returns_as_it_was(kind: str) -> None:
    """The optimizer begins its own sequence in its first step, at zeros where a weight is hidden by then."""
    model, pruner, optimizer = build(kind)
    began = model.fc2.weight.detach().clone()

    class Look:
        def on_step(self, row: Any) -> None:
            if row.step == 1:
                hidden = model.fc2.weight == 0
                assert bool(hidden.any())
                assert torch.equal(optimizer.state[model.fc2.weight]["z"][hidden], began[hidden])
                seen.append(hidden)

        def on_evaluation(self, row: Any) -> None: ...

    seen: list[Tensor] = []
    fit(pruner, optimizer, metrics=Look())
    assert len(seen) == 1


def test_looking_more_often_changes_nothing_but_multipliers() -> None:
    """Exchanging the weights forth and back costs a digit; training must not notice."""
    ends = []
    for every in (1, 16):
        _, pruner, optimizer = build()
        fit(pruner, optimizer, validation=held_out(pruner.model), validate_every=every, driver="train")
        ends.append(pruner.engine.scores.value())
    assert torch.equal(*ends)


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_optimizer_goes_on(rounds: int) -> None:
    model, pruner, optimizer = build(iterative_steps=rounds)
    result = fit(pruner, optimizer, validation=held_out(model))
    x, y, _ = batches_for(model, 1)[0]
    fresh = result.optimizer
    assert isinstance(fresh, schedulefree.SGDScheduleFree)
    before = [p.detach().clone() for p in model.parameters()]
    fresh.train()
    nn.functional.cross_entropy(model(x), y).backward()
    fresh.step()
    fresh.eval()
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_an_interrupted_run_ends_as_the_whole_one(tmp_path: Path) -> None:
    class Interruption(Exception):
        pass

    def interrupt(row: Any) -> None:
        if row.step == 8:
            raise Interruption

    whole, pruner, optimizer = build()
    fit(pruner, optimizer, validation=held_out(whole), validate_every=4)
    first, pruner, optimizer = build()
    options = {"validation": held_out(first), "validate_every": 4, "checkpoint_dir": tmp_path, "checkpoint_every": 3}
    with pytest.raises(Interruption):
        fit(pruner, optimizer, on_evaluation=interrupt, **options)
    second, pruner, optimizer = build()
    fit(pruner, optimizer, **options)
    assert_same(second, whole)


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    theirs: dict[str, Tensor] = expected.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_an_optimizer_that_does_not_say_where_it_is() -> None:
    class Swapping(SGD):
        def train(self) -> None: ...
        def eval(self) -> None: ...

    model, pruner, _ = build()
    with pytest.raises(ConfigError, match=r"Swapping has train\(\) and eval\(\), but no 'train_mode'.*apply_mask"):
        fit(pruner, Swapping(model.parameters(), lr=0.1))
