"""Rounds of iterative pruning: how they share the steps and the ratio, and what the next one begins with."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from host_networks import MLP, batches, prune_mlp, sgd, train
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from driving import SGD, SmallMLP, batches_for, drive, example_of, kept_of, small_pruner
from fairprune_plugin import AccuracyParity
from fairprune_plugin.engine.config import BiLevelConfig
from fairprune_plugin.engine.timetable import Timetable
from fairprune_plugin.errors import ConfigError, FairPruneWarning, UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner, load_pruned, save_pruned
from fairprune_plugin.torch_pruning.removal.rounds import timetable_of_round


def linear(ratio: float, steps: int) -> list[float]:
    """Torch-Pruning's own scheduler."""
    return [ratio * i / steps for i in range(steps + 1)]


def plan(total_steps: int, rounds: int, current: int = 0, **options: Any) -> Timetable:
    """Of one round, by what it reads of a pruner."""
    bilevel = {"ramp_end": 0.5, **options.pop("bilevel", {})}
    pruner = {
        "iterative_steps": rounds,
        "current_step": current,
        "pruning_ratio": 0.6,
        "pruning_ratio_dict": {},
        "head_pruning_ratio": 0.0,
        "head_pruning_ratio_dict": {},
        "iterative_pruning_ratio_scheduler": linear,
        "config": BiLevelConfig(**bilevel),
        **options,
    }
    return timetable_of_round(SimpleNamespace(**pruner), total_steps)


# ---- what a round trains for -------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 8))
def test_rounds_share_all_steps_evenly(rounds: int, each: int, more: int) -> None:
    total = rounds * each + more % rounds
    steps = [plan(total, rounds, current).steps for current in range(rounds)]
    assert sum(steps) == total
    assert set(steps) <= {each, each + 1}


@given(
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6, unique=True).map(sorted),
    st.sampled_from(["cubic", "linear", "lottery_ticket", "constant"]),
)
def test_every_round_goes_from_one_ratio_of_the_hosts_scheduler_to_the_next(ratios: list[float], schedule: str) -> None:
    rounds = len(ratios)
    asked: list[tuple[float, int]] = []

    def scheduler(ratio: float, steps: int) -> list[float]:
        asked.append((ratio, steps))
        return [0.0, *ratios]

    options = {"iterative_pruning_ratio_scheduler": scheduler, "pruning_ratio": ratios[-1]}
    plans = [plan(10 * rounds, rounds, i, bilevel={"schedule": schedule}, **options) for i in range(rounds)]
    assert asked == [(ratios[-1], rounds)] * rounds
    assert plans[0].progress(-1) == 0
    for own, before, reached in zip(plans, [0.0, *ratios], ratios, strict=False):
        assert own.progress(-1) * ratios[-1] == pytest.approx(before)
        assert own.progress(own.steps - 1) * ratios[-1] == pytest.approx(reached)
        assert own.at_target(own.steps - 1)


def test_the_first_round_begins_with_a_dense_model_whatever_the_scheduler_says() -> None:
    at_once = {"iterative_pruning_ratio_scheduler": lambda ratio, steps: [ratio] * (steps + 1)}
    assert plan(20, 2, 0, **at_once).progress(-1) == 0
    assert plan(20, 2, 1, **at_once).progress(-1) == 1


@pytest.mark.parametrize(
    ("ratios", "asked"),
    [
        ({"pruning_ratio": 0.5, "pruning_ratio_dict": {"a": [0.9]}}, 0.5),
        ({"pruning_ratio": 0.0, "pruning_ratio_dict": {"a": [0.1, 0.2], "b": [0.4]}}, 0.4),
        ({"pruning_ratio": 0.0, "head_pruning_ratio": 0.3, "pruning_ratio_dict": {"a": [0.2]}}, 0.3),
        ({"pruning_ratio": 0.0, "head_pruning_ratio_dict": {"q": [0.25, 0.75]}}, 0.75),
    ],
    ids=["global", "layers", "all-heads", "heads-of-layers"],
)
def test_a_run_about_some_layers_only_rises_by_their_largest_ratio(ratios: dict[str, Any], asked: float) -> None:
    seen: list[float] = []

    def scheduler(ratio: float, steps: int) -> list[float]:
        seen.append(ratio)
        return linear(ratio, steps)

    assert plan(20, 2, 1, iterative_pruning_ratio_scheduler=scheduler, **ratios).progress(-1) == pytest.approx(0.5)
    assert seen == [asked]


def test_without_a_ratio_nobody_asks_the_scheduler() -> None:
    def scheduler(ratio: float, steps: int) -> list[float]:
        raise AssertionError("a ratio of 0 cannot be shared out")

    for current in (0, 1):
        own = plan(20, 2, current, pruning_ratio=0.0, iterative_pruning_ratio_scheduler=scheduler)
        assert own.steps == 10
        assert own.progress(0) == 1


@pytest.mark.parametrize("given_back", [[0.6], [0.3, 0.6], [0.0, 0.2, 0.4, 0.6]], ids=len)
def test_a_scheduler_of_the_wrong_length_is_refused(given_back: list[float]) -> None:
    message = (
        r"^expected iterative_pruning_ratio_scheduler\(0\.6, 2\) to return 3 ratios \(at the start and after each round\), "
        rf"got {len(given_back)}$"
    )
    with pytest.raises(ConfigError, match=message):
        plan(20, 2, iterative_pruning_ratio_scheduler=lambda ratio, steps: given_back)


@given(st.integers(1, 6), st.integers(1, 24))
def test_too_few_steps_for_any_of_the_rounds_are_refused_in_the_first(rounds: int, total: int) -> None:
    shares = [round(total * i / rounds) for i in range(rounds + 1)]
    shortest = min(b - a for a, b in itertools.pairwise(shares))
    if shortest >= 2:
        assert plan(total, rounds).steps == shares[1]
        return
    with pytest.raises(ConfigError, match=r"^expected at least 2 training steps .*, got [01]") as refused:
        plan(total, rounds)
    assert (f"{rounds} rounds of iterative_steps share total_steps={total}" in str(refused.value)) == (rounds > 1)


def test_a_last_round_that_is_too_short_is_said_before_channels_are_gone() -> None:
    model = MLP()
    with pytest.raises(ConfigError, match=r"got 1 \(the 2 rounds of iterative_steps share total_steps=3\)"):
        prune_mlp(model, total_steps=3, iterative_steps=2, pruning_ratio=0.5, self_check=False)
    pruner = prune_mlp(model, total_steps=4, iterative_steps=2, pruning_ratio=0.5, self_check=False)
    assert pruner.engine.timetable.steps == 2


def test_a_ratio_for_one_layer_alone_rises_by_the_schedule_too() -> None:
    model, steps = SmallMLP(), 40
    pruner = small_pruner(
        model,
        pruning_ratio=0.0,
        pruning_ratio_dict={model.fc1: 0.5},
        total_steps=steps,
        iterative_steps=2,
        bilevel={"warmup": 0.1, "ramp_end": 0.5},
    )
    optimizer: torch.optim.Optimizer = SGD(model.parameters(), lr=0.05)
    hidden: list[int] = []
    for _ in range(2):
        data = batches_for(model, steps // 2)
        drive(pruner, model, optimizer, data, lambda _: hidden.append(int((~kept_of(pruner, "fc1")).sum())))
        pruner.step()
        optimizer = pruner.rebuild_optimizer(optimizer)
    first, second = hidden[:20], hidden[20:]
    assert first[:2] == [0, 0]  # warm-up
    assert first == sorted(first)
    assert len(set(first)) > 2  # it rises, it does not jump
    assert (max(first), max(second)) == (4, 4)
    assert (model.fc1.out_features, model.fc2.out_features) == (8, 16)


# ---- from one round to the next ----------------------------------------------------------------------------

DATA = batches(12)


def in_rounds(rounds: int, **options: Any) -> tuple[MLP, BiFPPruner, torch.optim.Optimizer]:
    """A run over :data:`DATA`, at its beginning."""
    model = MLP()
    options = {"total_steps": len(DATA), "pruning_ratio": 0.5, "self_check": False, **options}
    return model, prune_mlp(model, iterative_steps=rounds, **options), sgd(model)


def test_the_scores_of_what_is_left_carry_over_and_the_mask_begins_anew() -> None:
    model, pruner, optimizer = in_rounds(3)
    train(pruner, model, optimizer, DATA[:4])
    keep, learned = pruner.engine.weights.keep.clone(), pruner.engine.scores.value().clone()
    assert not keep.all()
    pruner.step()
    assert torch.equal(pruner.engine.scores.value(), learned[keep])
    assert pruner.engine.scores.updates > 0
    assert [mask.tolist() for mask in pruner.removed_rounds] == [keep.tolist()]
    assert pruner.engine.weights.num_units == int(keep.sum())
    assert pruner.engine.weights.keep.all()
    assert not pruner.engine.weights.final
    sizes = {group.name: group.num_units for group in pruner.engine.weights.groups}
    assert sizes == {"a": model.a.out_features, "b": model.b.out_features}
    # Its plan goes on where the one before has ended.
    assert (pruner.engine.phase_step, pruner.engine.step_index) == (0, 4)
    assert pruner.engine.timetable.steps == 4
    assert pruner.engine.progress() == pytest.approx(1 / 3)


def test_what_was_removed_is_remembered_as_it_was() -> None:
    """Not as the mask that the engine goes on with."""
    model, pruner, optimizer = in_rounds(2)
    train(pruner, model, optimizer, DATA[:6])
    pruner.step()
    first = pruner.removed_rounds[0].clone()
    train(pruner, model, pruner.rebuild_optimizer(optimizer), DATA[6:])
    pruner.step()
    assert torch.equal(pruner.removed_rounds[0], first)
    assert len(pruner.removed_rounds[1]) == int(first.sum())
    assert int(pruner.removed_rounds[1].sum()) == model.a.out_features + model.b.out_features


def test_after_the_last_round_nothing_is_left_to_train() -> None:
    model, pruner, optimizer = in_rounds(1)
    train(pruner, model, optimizer, DATA)
    pruner.step()
    assert pruner.engine.finished
    assert (pruner.engine.step_index, pruner.engine.timetable.steps) == (len(DATA), 0)
    assert (model.a.out_features, model.b.out_features) == (6, 4)


def test_floors_and_ratios_refer_to_the_dense_model_in_every_round() -> None:
    """Thirds of what the cap lets go of 12 and 8 channels: not of what a round has left."""
    model, pruner, optimizer = in_rounds(3, pruning_ratio=0.9, max_pruning_ratio=0.75)
    widths = []
    for start in (0, 4, 8):
        train(pruner, model, optimizer, DATA[start : start + 4])
        pruner.step()
        optimizer = pruner.rebuild_optimizer(optimizer)
        widths.append((model.a.out_features, model.b.out_features))
    assert widths == [(9, 6), (6, 4), (3, 2)]


def test_what_is_frozen_is_looked_up_in_the_smaller_model() -> None:
    model, pruner, optimizer = in_rounds(2)
    model.bn.requires_grad_(False)
    train(pruner, model, optimizer, DATA[:6])
    before = {id(parameter) for parameter in model.parameters()}
    pruner.step()
    assert pruner.frozen_parameters == {id(model.bn.weight), id(model.bn.bias)}
    assert not pruner.frozen_parameters & before


def test_a_group_that_the_caller_does_not_prune_is_reported() -> None:
    model = SmallMLP()
    pruner = small_pruner(model, total_steps=4)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 4))
    groups: Any = pruner.step(interactive=True)
    for _ in pruner.host_groups:
        group = next(groups)
        if group[0].dep.target.module is model.fc2:
            group.prune()
    message = (
        r"^16 units were kept but the pruned model has 24: .*step\(interactive=True\) was not pruned.*iterative_steps=1"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        next(groups)
    assert pruner.removed_rounds == []
    assert model(example_of(model)).isfinite().all()  # the other layer's channels are hidden as before


class GatedCNN(nn.Module):
    """A gated linear unit: the halves of a layer's output meet again, so that their channels go in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b, self.fc = nn.Conv2d(8, 6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.norm(self.a(x)).chunk(2, dim=1)
        out: Tensor = self.fc(F.relu(self.b(left * torch.sigmoid(right))).mean(dim=(2, 3)))
        return out


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_gated_linear_units_lose_pairs_and_can_be_saved(rounds: int, ratio: float, tmp_path: Path) -> None:
    """The host's graph keeps the old sizes of the split."""
    torch.manual_seed(0)
    model = GatedCNN()
    x = torch.randn(8, 3, 8, 8)
    data = [(x, (x[:, 0, 0, 0] > 0).long(), torch.arange(8) % 2)] * 2
    options: dict[str, Any] = {"pruning_ratio": ratio, "iterative_steps": rounds, "total_steps": 8}
    pruner = BiFPPruner(model, x[:2], ignored_layers=[model.fc], constraint=AccuracyParity(0.1), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairPruneWarning)
        result = pruner.fit(data, torch.optim.SGD(model.parameters(), lr=0.1), progress=False)
    left = 2 * int(8 * (1 - ratio) + 1e-9)
    assert (model.a.out_channels, model.norm.num_features, model.b.in_channels) == (left, left, left // 2)
    save_pruned(model, result, tmp_path / "gated.safetensors")
    again = load_pruned(GatedCNN(), tmp_path / "gated.safetensors", x[:2])
    model.eval()
    assert torch.equal(again.eval()(x), model(x))
