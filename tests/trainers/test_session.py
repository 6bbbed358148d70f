"""The pruner's part of a trainer's loop: what is refused before training, and states that do not fit."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("torch_pruning")

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.distributed import Ranks
from fairprune_plugin.engine.loaders.census import Labels
from fairprune_plugin.errors import ConfigError, DataError, FairPruneWarning, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.trainers.session import Session

X, Y, S = torch.randn(8, 4), torch.arange(8) % 2, torch.arange(8) // 2 % 2


def pruner(**options: Any) -> BiFPPruner:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    constraint = EqualOpportunity(tolerance=0.02)
    settings = {"pruning_ratio": 0.5, "ignored_layers": [model[2]], "self_check": False, "constraint": constraint}
    return BiFPPruner(model, X, **{**settings, **options})


def take(session: Session, steps: int, optimizer: torch.optim.Optimizer | None = None) -> None:
    """What a trainer does."""
    model = session.pruner.model
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        session.loss(model(X), Y, S).backward()
        session.before_update()
        optimizer.step()
        session.after_update(optimizer)


def test_the_steps_of_a_run() -> None:
    session = Session(pruner(), validation=[(X, Y, S)], validate_every=3)
    session.begin(9, 0)
    assert not session.has_loss
    take(session, 9)
    assert [row.step for row in session.history] == [3, 6, 9]
    assert session.after_update() == {}, "nothing new since the last update"
    assert session.end()
    assert session.pruner.model[0].out_features == 4
    with pytest.raises(TrainingStateError, match="has removed its channels already"):
        session.begin(9, 9)


@pytest.mark.parametrize("best_came_after", [True, False])
def test_channels_that_the_user_removed_meanwhile(best_came_after: bool) -> None:
    session = Session(pruner(), validation=[(X, Y, S)], validate_every=1)
    model = session.pruner.model
    session.begin(12, 0)
    while not session.pruner.engine.at_target:
        take(session, 1)
    session.pruner.step()
    if best_came_after:
        session.snapshots.best = None
        take(session, 1)
    best = session.snapshots.best
    assert best is not None
    best = session.snapshots.best = dataclasses.replace(best, bar=(math.inf,))  # no other moment is as good
    take(session, 12 - session.pruner.engine.step_index)
    last = model[0].weight.detach().clone()
    if best_came_after:
        assert session.end()
        assert torch.equal(model[0].weight, best.state["0.weight"])
        assert not torch.equal(model[0].weight, last)
    else:
        with pytest.warns(FairPruneWarning, match="came before pruner.step"):
            assert session.end()
        assert torch.equal(model[0].weight, last)


@pytest.mark.parametrize("rounds", [1, 2])
def test_channels_that_go_before_the_end(rounds: int) -> None:
    session = Session(pruner(iterative_steps=rounds), validation=[(X, Y, S)], validate_every=1, remove_early=True)
    model = session.pruner.model
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    session.begin(20, 0)
    widths = []
    for _ in range(20):
        take(session, 1, optimizer)
        widths.append(model[0].out_features)
    assert sorted(set(widths)) == ([4, 8] if rounds == 1 else [4, 6, 8])
    assert widths[18] == 4, "long before the end"
    assert optimizer.state[model[0].weight]["momentum_buffer"].shape == (4, 4)
    assert {row.at_target for row in session.history if row.step < widths.index(4) + 1} == {False}
    best = session.snapshots.best
    assert best is not None
    assert best.step > widths.index(4)
    assert session.end()
    assert torch.equal(model[0].weight, best.state["0.weight"])
    with pytest.raises(TrainingStateError, match="has removed its channels already"):
        session.begin(20, 20)


def test_a_state_of_after_the_removal_goes_on_elsewhere() -> None:
    def made() -> tuple[Session, torch.optim.Optimizer]:
        session = Session(pruner(), validation=[(X, Y, S)], validate_every=2, remove_early=True)
        return session, torch.optim.SGD(session.pruner.model.parameters(), 0.1, momentum=0.9)

    first, optimizer = made()
    first.begin(12, 0)
    take(first, 10, optimizer)
    assert first.pruner.model[0].out_features == 4
    second, another = made()
    second.load_state_dict(first.state_dict())
    second.pruner.rebuild_optimizer(another)
    second.pruner.model.load_state_dict(first.pruner.model.state_dict())
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(ConfigError, match=r"will take 13 optimizer steps, .* was planned for 12: resume with as many"):
        second.begin(13, 10)
    with pytest.raises(TrainingStateError, match="the trainer starts at step 9 and the pruner is at step 10"):
        second.begin(12, 9)
    second.begin(12, 10)
    for session, own in ((first, optimizer), (second, another)):
        take(session, 2, own)
        assert session.end()
    assert first.history == second.history
    for one, same in zip(first.pruner.model.parameters(), second.pruner.model.parameters(), strict=True):
        assert torch.equal(one, same)


def test_an_early_removal_needs_the_optimizer() -> None:
    session = Session(pruner(), remove_early=True)
    session.begin(9, 0)
    session.loss(session.pruner.model(X), Y, S).backward()
    session.before_update()
    with pytest.raises(ConfigError, match=r"the optimizer must follow: call session\.after_update\(optimizer\)"):
        session.after_update()


def test_optimizers_come_one_by_one() -> None:
    session = Session(pruner(), remove_early=True)
    session.begin(9, 0)
    session.loss(session.pruner.model(X), Y, S).backward()
    session.before_update()
    with pytest.raises(ConfigError, match=r"got a list: call session\.after_update\(\*optimizers\)"):
        session.after_update([torch.optim.SGD(session.pruner.model.parameters(), 0.1)])


@pytest.mark.parametrize("handed_over", [True, False])
def test_an_optimizer_of_the_dense_model_is_refused_after_a_removal(handed_over: bool) -> None:
    """It would train what did not change size, and nothing else."""
    first = Session(pruner(), remove_early=True)
    first.begin(12, 0)
    take(first, 10)
    second = Session(pruner(), remove_early=True)
    forgotten = torch.optim.SGD(second.pruner.model.parameters(), 0.1, momentum=0.9)
    second.load_state_dict(first.state_dict())
    second.pruner.model.load_state_dict(first.pruner.model.state_dict())
    second.begin(12, 10)
    second.loss(second.pruner.model(X), Y, S).backward()
    with pytest.raises(ConfigError, match=r"SGD holds parameters of before the removal .*rebuild_optimizer"):
        second.before_update(optimizer=forgotten if handed_over else None)
        second.after_update(forgotten)


@pytest.mark.parametrize(("early", "rounds"), [(True, 1), (False, 2)])
def test_several_processes_cannot_remove_channels_in_the_middle(early: bool, rounds: int) -> None:
    class OfTwo(Ranks):
        size = 2

    session = Session(pruner(iterative_steps=rounds), remove_early=early)
    session.pruner.lagrangian.ranks = OfTwo()
    with pytest.raises(ConfigError, match="leave remove_early out and set iterative_steps=1"):
        session.begin(9, 0)


def test_a_task_loss_of_the_trainers_own_is_used_once() -> None:
    session = Session(pruner(constraint=None))
    session.begin(9, 0)
    logits = session.pruner.model(X)
    given = (logits**2).sum()
    assert session.loss(logits, Y, S, task_loss=given) == given
    assert session.loss(logits, Y, S) == nn.functional.cross_entropy(logits, Y)


class Second(Ranks):
    """Any rank but the first."""

    first = False


@pytest.mark.parametrize("ranks", [Ranks, Second])
def test_metrics_go_out_once_from_all_ranks(ranks: type[Ranks]) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.rows: list[Any] = []

        def on_step(self, row: Any) -> None:
            self.rows.append(row)

        def on_evaluation(self, row: Any) -> None:
            self.rows.append(row)

    recorder = Recorder()
    session = Session(pruner(), validation=[(X, Y, S)], validate_every=3, metrics=recorder)
    session.pruner.lagrangian.ranks = ranks()
    session.begin(9, 0)
    take(session, 9)
    assert len(recorder.rows) == (12 if ranks is Ranks else 0)
    assert len(session.history) == 3


def test_a_sharded_copy_is_refused_before_training() -> None:
    session = Session(pruner())
    session.pruner.engine.trained.module = nn.Linear(4, 2)  # as attach() does
    with pytest.raises(ConfigError, match=r"sharded copy .* cannot be trained in a session"):
        session.begin(9, 0)


def test_a_run_that_ends_early_keeps_its_channels() -> None:
    session = Session(pruner())
    session.begin(50, 0)
    take(session, 2)
    with pytest.warns(FairPruneWarning, match="training stopped after 2 of 50 steps"):
        assert not session.end()
    assert session.pruner.model[0].out_features == 8


def test_a_state_goes_on_elsewhere() -> None:
    first = Session(pruner(), validation=[(X, Y, S)], validate_every=2)
    first.begin(12, 0)
    take(first, 6)
    state = first.state_dict()
    second = Session(pruner(), validation=[(X, Y, S)], validate_every=2)
    second.load_state_dict(state)
    second.pruner.model.load_state_dict(first.pruner.model.state_dict())
    second.begin(12, 6)
    take(first, 6)
    take(second, 6)
    assert first.history == second.history
    for one, same in zip(first.pruner.model.parameters(), second.pruner.model.parameters(), strict=True):
        assert torch.equal(one, same)


def test_states_that_do_not_fit() -> None:
    session = Session(pruner())
    session.begin(9, 0)
    state = session.state_dict()
    with pytest.raises(TrainingStateError, match=r"expected the state of a callback of fairprune_plugin\.trainers"):
        session.load_state_dict({"format": "another"})
    with pytest.raises(TrainingStateError, match=r"the state of the callback is damaged .*snapshot"):
        session.load_state_dict({key: value for key, value in state.items() if key != "snapshot"})
    with pytest.raises(ConfigError, match="was written without validation data, and this callback is with them"):
        Session(pruner(), validation=[(X, Y, S)]).load_state_dict(state)
    with pytest.raises(TrainingStateError, match="the trainer starts at step 4 and the pruner is at step 0"):
        session.begin(9, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dual_every": 0}, "expected dual_every as a positive whole number"),
        ({"validate_every": 2.5}, "expected validate_every as a positive whole number"),
        ({"select_by": "luck"}, "unknown select_by 'luck'"),
        (
            {"remove": False, "remove_early": True},
            "remove_early=True removes the channels and remove=False leaves them",
        ),
        ({"metrics": print}, "expected metrics as an object"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Session(pruner(), **options)


@pytest.mark.parametrize("validation", [[], iter([(X, Y, S)])])
def test_validation_must_be_walked_again_and_again(validation: Any) -> None:
    with pytest.raises(DataError, match="the validation loader is empty or a generator"):
        Session(pruner(), validation=validation)


def test_validation_with_one_group_is_refused_before_training() -> None:
    session = Session(pruner(), validation=[(X, Y, torch.zeros(8, dtype=torch.long))])
    with pytest.raises(DataError, match=r"the validation data contain one group only \(0\) of 0, 1"):
        session.begin(9, 0)


def test_validation_without_samples_that_the_constraint_needs() -> None:
    session = Session(pruner(), validation=[(X, Y * (1 - S), S)])
    with pytest.warns(FairPruneWarning, match=r"on the validation data: .*is undefined for group 1 .*multipliers"):
        session.begin(9, 0)


def test_one_group_on_each_rank_is_two_together() -> None:
    """Each rank sees its shard of the validation data; what they lack is judged over all of them."""

    class WithAnother(Ranks):
        """The first of two, the other of which has the other group."""

        size = 2

        def collect(self, local: Any) -> list[Any]:
            mine = local()
            if isinstance(mine, list):
                return [mine, [Labels(batch.targets, 1 - batch.sensitive) for batch in mine]]
            return [mine, mine]

    session = Session(pruner(), validation=[(X, Y, torch.zeros(8, dtype=torch.long))])
    session.pruner.lagrangian.ranks = WithAnother()
    session.begin(9, 0)


def test_groups_are_not_read_off_validation_data() -> None:
    session = Session(pruner(constraint=EqualOpportunity(0.02, groups=None)), validation=[(X, Y, S)])
    with pytest.raises(TrainingStateError, match=r"pruner\.discover_groups\(loader\) first"):
        session.begin(9, 0)
    session.pruner.discover_groups([(X, Y, S)])
    session.begin(9, 0)


@pytest.mark.parametrize("wrong", [None, nn.Linear(1, 1), BiFPPruner])
def test_something_else_than_a_pruner(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="expected a BiFPPruner"):
        Session(wrong)


def test_a_model_that_moved_after_the_pruner_was_built() -> None:
    session = Session(pruner())
    session.pruner.engine.weights.keep = session.pruner.engine.weights.keep.to("meta")  # stands for another device
    with pytest.raises(
        ConfigError, match=r"was on meta when the pruner was built and is on cpu now: .*model\.to\('cpu'\)"
    ):
        session.begin(9, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_that_was_converted_after_the_pruner_was_built(dtype: torch.dtype) -> None:
    session = Session(pruner())
    session.pruner.model.to(dtype)
    with pytest.raises(ConfigError, match=rf'expected 0\.weight in torch\.float32, .* to {dtype}: .*"bf16-mixed"'):
        session.begin(9, 0)


def test_lengths_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="does not know how many optimizer steps"):
        Session(pruner()).begin(None, 0)
    with pytest.raises(ConfigError, match="will take 9 optimizer steps, but total_steps=7"):
        Session(pruner(total_steps=7)).begin(9, 0)
    Session(pruner(total_steps=7)).begin(None, 0)
