"""A pruner's state in a loop of the user's own: written, read without pickle, continued identically, refused if foreign."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_networks import MLP, ResidualCNN, batches, images, prune_mlp, rows, sgd, train
from torch import Tensor, nn

from fairprune_plugin import AccuracyParity, EqualOpportunity, ExcessAccuracyGap
from fairprune_plugin.errors import ConfigError, NonFiniteError, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner

DATA = batches(12)
CONSTRAINT = EqualOpportunity(0.01)


def build(seed: int = 0, **options: Any) -> tuple[MLP, BiFPPruner, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = MLP()
    options = {"constraint": CONSTRAINT, "total_steps": 12, "pruning_ratio": 0.5, "self_check": False, **options}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    return model, prune_mlp(model, **options), optimizer


def run(
    pruner: BiFPPruner, model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int
) -> torch.optim.Optimizer:
    """Steps of the README's loop, with a removal after each round."""
    for number in range(start, stop):
        train(pruner, model, optimizer, [DATA[number]])
        if pruner.engine.finished:
            pruner.step()
            optimizer = pruner.rebuild_optimizer(optimizer)
    return optimizer


def saved(folder: Path, model: nn.Module, pruner: BiFPPruner, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Through a file, as plain values."""
    parts = {"model": model.state_dict(), "pruner": pruner.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(parts, folder / "state.pt")
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return state


def everything(model: nn.Module, pruner: BiFPPruner) -> list[Tensor]:
    """What must not change, flat."""
    engine = pruner.engine.state_dict()
    held = [value for value in engine["held"] if value is not None]
    scores = [torch.as_tensor(value) for value in engine["scores"].values()]
    multipliers = [tracker.multipliers.value for tracker in pruner.lagrangian.trackers]
    counts = [value for tracker in pruner.lagrangian.trackers for value in tracker.counts.state_dict().values()]
    position = torch.tensor([engine["step_index"], engine["phase_step"], engine["passes"], pruner.current_step])
    return [*model.state_dict().values(), engine["keep"], *held, *scores, *multipliers, *counts, position]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iterative_steps": 3},
        {"target": "params", "iterative_steps": 2},
        {"multipliers": {"rule": "nupi"}, "bilevel": {"score_rule": "gradient", "ramp_end": 0.6}},
        {"constraint": None, "round_to": 2},
        {"constraint": AccuracyParity(0.01, groups=None), "multipliers": {"rule": "augmented"}},
    ],
    ids=["one-round", "three-rounds", "size-budget", "nupi", "no-constraint", "discovered-groups"],
)
@pytest.mark.parametrize("moment", [0, 3, 5, 8, 12])
def test_a_run_goes_on_identically_in_a_new_process(options: dict[str, Any], moment: int, tmp_path: Path) -> None:
    model, pruner, optimizer = build(**options)
    pruner.discover_groups(DATA) if pruner.lagrangian.constraints else ()
    pruner.measure_dense(DATA)
    optimizer = run(pruner, model, optimizer, 0, moment)
    state = saved(tmp_path, model, pruner, optimizer)
    run(pruner, model, optimizer, moment, 12)
    again, resumed, fresh = build(seed=1, **options)
    resumed.load_state_dict(state["pruner"])
    if resumed.removed_rounds:
        fresh = resumed.rebuild_optimizer(fresh)
    again.load_state_dict(state["model"])
    fresh.load_state_dict(state["optimizer"])
    run(resumed, again, fresh, moment, 12)
    assert_same(everything(model, pruner), everything(again, resumed))
    assert resumed.pruning_history() == pruner.pruning_history()
    assert again.a.out_features == model.a.out_features < 12
    assert len(resumed.removed_rounds) == options.get("iterative_steps", 1)


def test_the_model_may_be_loaded_first_within_a_round(tmp_path: Path) -> None:
    model, pruner, optimizer = build()
    run(pruner, model, optimizer, 0, 7)
    state = saved(tmp_path, model, pruner, optimizer)
    run(pruner, model, optimizer, 7, 12)
    again, resumed, fresh = build(seed=1)
    again.load_state_dict(state["model"])
    fresh.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["pruner"])
    run(resumed, again, fresh, 7, 12)
    assert_same(everything(model, pruner), everything(again, resumed))


def test_a_pruner_in_training_goes_back_to_its_own_state(tmp_path: Path) -> None:
    """Over a round as well: the state is of the first round, or of the moment before any batch was seen."""
    model, pruner, optimizer = build(iterative_steps=2)
    begin = saved(tmp_path, model, pruner, optimizer)
    optimizer = run(pruner, model, optimizer, 0, 8)
    state = saved(tmp_path, model, pruner, optimizer)
    run(pruner, model, optimizer, 8, 11)
    late = everything(model, pruner)
    pruner.load_state_dict(state["pruner"])
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    run(pruner, model, optimizer, 8, 11)
    assert_same(everything(model, pruner), late)
    with pytest.raises(TrainingStateError, match="removed the channels of 1 rounds already"):
        pruner.load_state_dict(begin["pruner"])
    assert_same(everything(model, pruner), late)


def test_back_to_before_the_first_batch(tmp_path: Path) -> None:
    model, pruner, optimizer = build()
    begin = saved(tmp_path, model, pruner, optimizer)
    run(pruner, model, optimizer, 0, 12 - 1)
    late = everything(model, pruner)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.load_state_dict(begin["model"])
    pruner.load_state_dict(begin["pruner"])
    run(pruner, model, optimizer, 0, 12 - 1)
    assert_same(everything(model, pruner), late)


def test_a_bad_first_batch_after_resuming_finds_the_right_statistics(tmp_path: Path) -> None:
    model, pruner, optimizer = build()
    run(pruner, model, optimizer, 0, 4)
    state = saved(tmp_path, model, pruner, optimizer)
    again, resumed, _ = build(seed=1)
    resumed.load_state_dict(state["pruner"])
    again.load_state_dict(state["model"])
    x, y, s = DATA[4]
    with pytest.raises(NonFiniteError):
        resumed.loss(again.train()(x * torch.nan), y, s)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_what_the_dense_model_was_comes_along(tmp_path: Path) -> None:
    options = {"constraint": ExcessAccuracyGap(0.02)}
    model, pruner, optimizer = build(**options)
    pruner.measure_dense(DATA)
    run(pruner, model, optimizer, 0, 4)
    state = saved(tmp_path, model, pruner, optimizer)
    again, resumed, fresh = build(seed=1, **options)
    resumed.load_state_dict(state["pruner"])
    again.load_state_dict(state["model"])
    run(resumed, again, fresh, 4, 5)  # would say that the dense rates are unknown
    own, other = (p.lagrangian.trackers[0] for p in (pruner, resumed))
    assert torch.equal(own.dense_rates["train"], other.dense_rates["train"])


def test_total_steps_come_from_the_state(tmp_path: Path) -> None:
    model, pruner, optimizer = build()
    run(pruner, model, optimizer, 0, 4)
    state = saved(tmp_path, model, pruner, optimizer)
    _, resumed, _ = build(total_steps=None)
    resumed.load_state_dict(state["pruner"])
    assert resumed.total_steps == 12
    assert resumed.engine.timetable.steps == 12


def test_a_residual_network_with_two_rounds() -> None:
    """Channels that hang together over a residual connection leave together again."""
    data = batches(8, image=True)

    def start() -> tuple[ResidualCNN, BiFPPruner, torch.optim.Optimizer]:
        model = ResidualCNN()
        pruner = BiFPPruner(
            model, images(), pruning_ratio=0.5, ignored_layers=[model.fc], total_steps=8, iterative_steps=2
        )
        return model, pruner, sgd(model)

    model, pruner, optimizer = start()
    train(pruner, model, optimizer, data[:4])
    pruner.step()
    optimizer = pruner.rebuild_optimizer(optimizer)
    train(pruner, model, optimizer, data[4:6])
    parts = copy.deepcopy((pruner.state_dict(), model.state_dict(), optimizer.state_dict()))
    again, resumed, fresh = start()
    resumed.load_state_dict(parts[0])
    fresh = resumed.rebuild_optimizer(fresh)
    again.load_state_dict(parts[1])
    fresh.load_state_dict(parts[2])
    for m, p, o in ((model, pruner, optimizer), (again, resumed, fresh)):
        train(p, m, o, data[6:])
        p.step()
    assert_same(everything(model, pruner), everything(again, resumed))
    assert again.stem.out_channels == 3


# ---- what is refused, before anything is changed -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruning_ratio": 0.4}, r"pruning_ratio was 0\.5 and is 0\.4"),
        ({"target": "params"}, "target was 'channels' and is 'params'"),
        ({"iterative_steps": 2}, "iterative_steps was 1 and is 2"),
        ({"total_steps": 20}, "total_steps was 12 and is 20"),
        ({"constraint": EqualOpportunity(0.05)}, "constraints was .*0.01.* and is .*0.05"),
        ({"constraint": EqualOpportunity(0.01, groups=("f", "m"))}, "was about 0, 1 and is about f, m"),
        ({"constraint": None}, r"constraints was .* and is \[\]"),
        ({"bilevel": {"schedule": "linear"}}, "bilevel was .*cubic.* and is .*linear"),
        ({"multipliers": {"lr": 0.5}}, "multipliers was"),
    ],
)
def test_other_settings_are_named(options: dict[str, Any], message: str) -> None:
    model, pruner, optimizer = build()
    run(pruner, model, optimizer, 0, 4)
    other, another, _ = build(seed=1, **options)
    before = everything(other, another)
    with pytest.raises(ConfigError, match=message):
        another.load_state_dict(pruner.state_dict())
    assert_same(everything(other, another), before)


def test_another_model_is_refused() -> None:
    _, pruner, _ = build()
    wide = MLP(hidden=(14, 8))
    other = prune_mlp(wide, constraint=CONSTRAINT, total_steps=12)
    with pytest.raises(ConfigError, match=r"another model: a\.weight is \(12, 6\) there and \(14, 6\) in this model"):
        other.load_state_dict(pruner.state_dict())
    cnn = ResidualCNN()
    other = BiFPPruner(cnn, images(), pruning_ratio=0.5, ignored_layers=[cnn.fc], total_steps=12)
    with pytest.raises(ConfigError, match=r"stem\.weight is absent there"):
        other.load_state_dict(pruner.state_dict())


def test_a_pruner_of_the_model_already_pruned_is_refused() -> None:
    model, pruner, optimizer = build()
    run(pruner, model, optimizer, 0, 12)
    other = prune_mlp(model, constraint=CONSTRAINT, total_steps=12)
    with pytest.raises(ConfigError, match="same dense model"):
        other.load_state_dict(pruner.state_dict())


def _drop(*path: Any) -> Callable[[Any], None]:
    def damage(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return damage


def _put(value: Any, *path: Any) -> Callable[[Any], None]:
    def damage(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return damage


def _fill(value: float, *path: Any) -> Callable[[Any], None]:
    def damage(state: Any) -> None:
        for key in path:
            state = state[key]
        state.fill_(value)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _drop("engine", "keep"),
        _drop("engine", "scores", "second"),
        _drop("engine", "lagrangian", "trackers", 0, "counts"),
        _drop("engine", "lagrangian", "trackers", 0, "multipliers", "value"),
        _drop("removed"),
        _drop("shapes"),
        _drop("settings"),
        _drop("total_steps"),
        _drop("dense"),
        _put(torch.ones(3), "engine", "keep"),
        _put(torch.ones(3), "engine", "scores", "first"),
        _put([], "engine", "held"),
        _put([], "engine", "buffers"),
        _put(torch.zeros(1, 1, 5), "engine", "lagrangian", "trackers", 0, "multipliers", "value"),
        _put(torch.zeros(7, 7), "engine", "lagrangian", "trackers", 0, "counts", "hits"),
        _put([torch.ones(4, dtype=torch.bool)], "removed"),
        _put([torch.ones(20)], "removed"),
        _put([torch.ones(20, dtype=torch.bool)] * 2, "removed"),
        _put(None, "engine"),
        _put([], "parameters"),
        *(_put(value, "engine", "phase_step") for value in (None, -4, 10**6, True)),
        *(_put(value, "engine", "step_index") for value in ("3", 3.0, 13)),
        _put(None, "engine", "passes"),
        *(_put(value, "engine", "scores", "updates") for value in ("x", None, -1)),
        _put(torch.full((20,), torch.nan), "engine", "scores", "second"),
        _put(torch.ones(20, dtype=torch.long), "engine", "scores", "first"),
        _put(torch.ones(20), "engine", "keep"),
        _put(torch.zeros(20, dtype=torch.bool), "engine", "keep"),
        _put("x", "engine", "lagrangian", "batches"),
        _put(None, "engine", "lagrangian", "trackers", 0, "steps"),
        _fill(torch.nan, "engine", "lagrangian", "trackers", 0, "multipliers", "value"),
        _fill(-3.0, "engine", "lagrangian", "trackers", 0, "multipliers", "value"),
        _fill(torch.inf, "engine", "lagrangian", "trackers", 0, "counts", "totals"),
        _put(12.0, "total_steps"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_is_changed(damage: Callable[[Any], None]) -> None:
    model, pruner, optimizer = build()
    pruner.measure_dense(DATA)
    run(pruner, model, optimizer, 0, 7)
    state = copy.deepcopy(pruner.state_dict())
    damage(state)
    before = everything(model, pruner)
    with pytest.raises(TrainingStateError, match="damaged"):
        pruner.load_state_dict(state)
    assert_same(everything(model, pruner), before)


@pytest.mark.parametrize("total", [0, 1, -5, "48", 12.0, True])
def test_a_number_of_steps_that_cannot_be_is_refused_by_a_pruner_without_a_plan(total: Any) -> None:
    state = build()[1].state_dict()
    state["total_steps"] = total
    model, pruner, _ = build(seed=1, total_steps=None)
    before = everything(model, pruner)
    with pytest.raises((ConfigError, TrainingStateError), match=r"damaged|at least 2 training steps"):
        pruner.load_state_dict(state)
    assert_same(everything(model, pruner), before)
    assert pruner.total_steps is None
    pruner.plan(12)


@pytest.mark.parametrize("foreign", [None, {}, {"format": "other"}, [1], nn.Linear(2, 2).state_dict()])
def test_something_else_is_refused(foreign: Any) -> None:
    _, pruner, _ = build()
    with pytest.raises(TrainingStateError, match="expected the state of a pruner"):
        pruner.load_state_dict(foreign)


def test_masks_that_a_state_does_not_hide_are_shown_again() -> None:
    """Loading leaves no trace of the mask before it."""
    model, pruner, _ = build()
    begin = copy.deepcopy((pruner.state_dict(), model.state_dict()))
    pruner.engine.set_mask(torch.arange(20) % 2 == 0)
    assert (model.b.weight[:, 1] == 0).all()
    pruner.load_state_dict(begin[0])
    model.load_state_dict(begin[1])
    assert bool(pruner.engine.weights.keep.all())
    assert torch.equal(model(rows()), model(rows()))
    assert not (model.b.weight[:, 1] == 0).any()


@pytest.mark.parametrize(
    ("here", "there", "named"),
    [
        ({"head_pruning_ratio": 0.5}, {"head_pruning_ratio": 0.25}, "ratios of heads"),
        (
            {"iterative_pruning_ratio_scheduler": lambda ratio, steps: [0.0, 0.8 * ratio, ratio], "iterative_steps": 2},
            {"iterative_steps": 2},
            "ratios of rounds",
        ),
    ],
    ids=["heads", "rounds"],
)
def test_the_state_of_other_ratios_is_refused(here: dict[str, Any], there: dict[str, Any], named: str) -> None:
    state = build(**there)[1].state_dict()
    with pytest.raises(ConfigError, match=named):
        build(**here)[1].load_state_dict(state)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_a_pruner_is_not_copied_but_built_again(make: Callable[[Any], Any]) -> None:
    with pytest.raises(TrainingStateError, match="build another one on a copy of the dense model"):
        make(build()[1])
