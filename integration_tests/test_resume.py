"""Runs that are killed, interrupted or left with damaged files go on as if nothing had happened."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fairprune_plugin
import resumable_run
from driving import SmallMLP, example_of
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.engine.results.result import FitResult
from fairprune_plugin.engine.storage.checkpoint import write
from fairprune_plugin.errors import ConfigError, FairPruneWarning, NonFiniteError, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner
from resumable_run import STEPS, data, facts, train


class Stopped(Exception):
    """Something outside of our control."""


def stop_after(steps: int, act: Callable[[], None]) -> Callable[[nn.Module, Tensor], Tensor]:
    """A forward function that acts in the middle of a training step."""
    seen = [0]

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        if model.training and torch.is_grad_enabled():
            seen[0] += 1
            if seen[0] == steps:
                act()
        out: Tensor = model(x)
        return out

    return forward


def fail() -> None:
    raise Stopped


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def press_ctrl_c_twice() -> None:
    press_ctrl_c()
    press_ctrl_c()


def assert_equal(a: Any, b: Any, where: str = "facts") -> None:
    """To the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_equal(one, other, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return copy.deepcopy(facts(*train(None)))


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"))


# ---- identical ---------------------------------------------------------------------------------------------


def test_writing_checkpoints_changes_nothing(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    assert_equal(facts(*train(tmp_path, checkpoint_every=16)), uninterrupted)
    assert [file.name for file in checkpoints(tmp_path)] == [f"checkpoint-000000{step}.pt" for step in (32, 48)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="restarts by forking")
def test_killed_at_random_moments_it_ends_bit_identically(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    source = Path(fairprune_plugin.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{source}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(resumable_run.__file__), str(tmp_path), "12", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] >= 6, "else the run ended too early for the test to say anything"
    assert told["steps"] > STEPS, "steps since the last checkpoint were taken again"
    assert_equal(torch.load(tmp_path / "facts.pt", weights_only=True), uninterrupted)


MODES: dict[str, dict[str, Any]] = {
    "global-random-state": {"generator": False},
    "one-round": {"rounds": 1},
    "three-rounds": {"rounds": 3},
    "removed-early": {"rounds": 1, "remove_early": True},
    "removed-early-in-the-last-of-two-rounds": {"rounds": 2, "remove_early": True},
    "driven-by-training-data": {"driver": "train"},
    "no-validation": {"validation": None},
    "folds": {"validation": None, "driver": "folds", "folds": 3},
    "nupi-and-macs": {"pruner_options": {"target": "macs", "multipliers": {"rule": "nupi"}}},
    "mask-loader": {
        "mask_loader": lambda: DataLoader(data(40, 5), batch_size=16, shuffle=True),
        "pruner_options": {"bilevel": {"joint": False}},
    },
    "strict-alternation": {"pruner_options": {"bilevel": {"joint": False}}},
    "one-cycle": {"lr_scheduler": lambda: lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=STEPS)},
    "list-of-batches": {"train": lambda: [tuple(data(64, 0)[i * 16 : i * 16 + 16]) for i in range(4)], "epochs": 12},
    "workers": {"train": lambda: DataLoader(data(96, 0), 4, shuffle=True, num_workers=1), "epochs": 2},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_every_mode_of_fit_resumes_bit_identically(mode: dict[str, Any], tmp_path: Path) -> None:
    def made() -> dict[str, Any]:
        return {key: value() if callable(value) else value for key, value in mode.items()}

    expected = copy.deepcopy(facts(*train(None, **made())))
    for seed, steps in ((0, 18), (1, 20)):
        with pytest.raises(Stopped):
            train(tmp_path, seed=seed, forward=stop_after(steps, fail), checkpoint_every=5, **made())
    assert_equal(facts(*train(tmp_path, seed=3, checkpoint_every=5, **made())), expected)


class OwnLoader:
    """A loader of the user's own: what it needs is a generator that can be seen."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for rows in torch.randperm(96, generator=self.generator).chunk(3):
            yield tuple(data(96, 0)[rows])


def test_a_loader_of_the_users_own(tmp_path: Path) -> None:
    expected = copy.deepcopy(facts(*train(None, train=OwnLoader())))
    for seed, steps in ((0, 10), (1, 17)):
        with pytest.raises(Stopped):
            train(tmp_path, train=OwnLoader(), seed=seed, forward=stop_after(steps, fail))
    assert_equal(facts(*train(tmp_path, seed=9, train=OwnLoader())), expected)


def test_the_same_pruner_goes_on_in_the_same_process(tmp_path: Path) -> None:
    """In a notebook: the cell is run again after an error, on the objects that are there."""
    expected = facts(*train(None, rounds=1))
    torch.manual_seed(0)
    kept: list[Any] = []
    fit = fairprune_plugin.torch_pruning.BiFPPruner.fit

    def keeping(pruner: Any, loader: Any, optimizer: Any, **options: Any) -> Any:
        kept[:] = [pruner, loader, optimizer, {**options}]
        return fit(pruner, loader, optimizer, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fairprune_plugin.torch_pruning.BiFPPruner, "fit", keeping)
        with pytest.raises(Stopped):
            train(tmp_path, rounds=1, forward=stop_after(30, fail))
    pruner, loader, optimizer, options = kept
    options.pop("forward")
    assert pruner.engine.step_index == 29
    assert_equal(facts(pruner.fit(loader, optimizer, **options), pruner), expected)


class Tempered(nn.Module):
    """A task loss that learns a temperature, follows the loss and keeps a value that is no tensor."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))
        self.register_buffer("mean", torch.zeros(()))
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits * self.scale.exp(), y) + 0.1 * self.scale**2
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        self.calls += 1
        return loss + 0.01 * self.mean * self.scale


def test_a_task_loss_that_is_trained_goes_on_where_it_was(tmp_path: Path) -> None:
    def tempered(folder: Path | None, **options: Any) -> tuple[Any, ...]:
        loss = Tempered()
        result = train(folder, pruner_options={"task_loss": loss}, beside=loss.parameters(), **options)
        return facts(*result), dict(loss.state_dict())

    expected = copy.deepcopy(tempered(None))
    for seed, steps in ((0, 18), (1, 20)):
        with pytest.raises(Stopped):
            tempered(tmp_path, seed=seed, forward=stop_after(steps, fail), checkpoint_every=5)
    assert_equal(tempered(tmp_path, seed=3, checkpoint_every=5), expected)
    with pytest.raises(TrainingStateError, match=r"parameters trained beside the model was \[\[\]\] and is \[\]"):
        train(tmp_path)


def test_a_parameter_that_a_function_closes_over_goes_on_where_it_was(tmp_path: Path) -> None:
    def closed(folder: Path | None, **options: Any) -> tuple[Any, ...]:
        shift = torch.zeros(2, requires_grad=True)
        loss = lambda logits, y: nn.functional.cross_entropy(logits + shift, y)  # noqa: E731
        return facts(*train(folder, pruner_options={"task_loss": loss}, beside=[shift], **options)), shift.detach()

    expected = copy.deepcopy(closed(None))
    with pytest.raises(Stopped):
        closed(tmp_path, forward=stop_after(30, fail), checkpoint_every=5)
    assert_equal(closed(tmp_path, seed=3, checkpoint_every=5), expected)


class Counting(resumable_run.Dropping):
    """A model that keeps a number of its own beside its tensors."""

    steps: Any = 0

    def get_extra_state(self) -> Any:
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        self.steps = state["steps"]

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        return super().forward(x)


@pytest.fixture
def _counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_run, "Dropping", Counting)


@pytest.mark.usefixtures("_counting")
def test_what_a_model_keeps_beside_its_tensors_is_that_of_the_best_moment(tmp_path: Path) -> None:
    result, pruner = train(None)
    at_target = [row.step for row in result.history if row.at_target]
    assert pruner.model.steps in at_target
    with pytest.raises(Stopped):
        train(tmp_path, forward=stop_after(45, fail), checkpoint_every=5)
    again, other = train(tmp_path, seed=3, checkpoint_every=5)
    assert_equal(facts(again, other), facts(result, pruner))


@pytest.mark.usefixtures("_counting")
def test_a_model_that_keeps_what_checkpoints_cannot_hold_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "get_extra_state", lambda model: random.Random(0))
    with pytest.raises(ConfigError, match="tensors and plain values only"):
        train(tmp_path, forward=stop_after(1, fail))
    assert list(tmp_path.iterdir()) == []


# ---- interrupted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 24, 31, STEPS], ids=["first", "between-rounds", "odd", "last"])
def test_ctrl_c_leaves_a_checkpoint_of_the_step_it_came_in(
    steps: int, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, forward=stop_after(steps, press_ctrl_c), checkpoint_every=40)
    assert checkpoints(tmp_path)[-1].name == f"checkpoint-{steps:08d}.pt"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_equal(facts(*train(tmp_path, seed=4, checkpoint_every=40)), uninterrupted)


def test_ctrl_c_twice_interrupts_at_once_and_loses_little(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, forward=stop_after(30, press_ctrl_c_twice))
    assert checkpoints(tmp_path)[-1].name == "checkpoint-00000028.pt"
    assert_equal(facts(*train(tmp_path, seed=4)), uninterrupted)


def test_a_second_ctrl_c_in_a_callback(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    def interrupt(row: Any) -> None:
        if row.step == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_evaluation=interrupt)
    assert checkpoints(tmp_path)[-1].name == "checkpoint-00000012.pt"
    assert_equal(facts(*train(tmp_path, seed=4)), uninterrupted)


def test_weights_gone_bad_do_not_take_the_place_of_good_ones(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        train(tmp_path, adam={"lr": 1e30}, checkpoint_every=1)
    for file in checkpoints(tmp_path):
        weights = torch.load(file, weights_only=True)["model"].values()
        assert all(bool(torch.isfinite(w).all()) for w in weights if w.is_floating_point())


# ---- damaged, foreign, finished ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stopped):
        train(folder, forward=stop_after(22, fail))
    files = {file.name: file.read_bytes() for file in checkpoints(folder)}
    assert list(files) == ["checkpoint-00000016.pt", "checkpoint-00000020.pt"]
    return files


def restored(stopped: dict[str, bytes], folder: Path, **changed: bytes) -> None:
    for name, content in stopped.items():
        (folder / name).write_bytes(content)
    for step, content in changed.items():
        (folder / f"checkpoint-000000{step[1:]}.pt").write_bytes(content)


def test_a_truncated_newest_checkpoint_costs_the_steps_since_the_one_before(
    stopped: dict[str, bytes], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    newest = stopped["checkpoint-00000020.pt"]
    for number, length in enumerate((len(newest) // 2, len(newest) - 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        restored(stopped, folder, s20=newest[:length])
        with pytest.warns(FairPruneWarning, match="continuing from checkpoint-00000016.pt"):
            assert_equal(facts(*train(folder, seed=5, checkpoint_every=16)), uninterrupted)


def test_a_checkpoint_of_another_run_is_not_taken(
    stopped: dict[str, bytes], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with pytest.raises(Stopped):
        train(other, pruner_options={"pruning_ratio": 0.25}, forward=stop_after(30, fail))
    folder = tmp_path / "own"
    folder.mkdir()
    restored(stopped, folder, s28=(other / "checkpoint-00000028.pt").read_bytes())
    with pytest.warns(
        FairPruneWarning, match=r"checkpoint-00000020\.pt.*checkpoint-00000028\.pt: .*pruning_ratio was 0\.25"
    ):
        assert_equal(facts(*train(folder, seed=5, checkpoint_every=40)), uninterrupted)


@pytest.mark.parametrize("part", ["settings", "pruner", "model", "stream", "random"])
def test_a_checkpoint_with_a_part_missing_is_not_taken(stopped: dict[str, bytes], tmp_path: Path, part: str) -> None:
    restored(stopped, tmp_path)
    newest = tmp_path / "checkpoint-00000020.pt"
    state = torch.load(newest, weights_only=True)
    del state[part]
    write(newest, state)
    with pytest.warns(FairPruneWarning, match=r"checkpoint-00000016\.pt.*is damaged"), pytest.raises(Stopped):
        train(tmp_path, forward=stop_after(1, fail))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruner_options": {"pruning_ratio": 0.3}}, r"pruning_ratio was 0\.5 and is 0\.3"),
        ({"epochs": 20}, "total_steps was 48 and is 60"),
        ({"driver": "train"}, "driver was 'validation' and is 'train'"),
        ({"lr_scheduler": None}, "lr_scheduler was 'CosineAnnealingLR' and is None"),
        ({"validation": None}, "driver was"),
        ({"recalibration_batches": 0}, "recalibration_batches was 50 and is 0"),
        ({"remove_early": True}, "remove_early was False and is True"),
        ({"validate_every": 4}, "validate_every was 8 and is 4"),
        ({"adam": {"lr": 1e-4}}, r"lr of the optimizer was 0\.02 and is 0\.0001"),
        ({"adam": {"weight_decay": 0.5}}, "weight_decay of the optimizer was 0 and is 0.5"),
        (
            {"lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 96)},
            "T_max of the lr_scheduler was 48 and is 96",
        ),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(
    stopped: dict[str, bytes], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    restored(stopped, tmp_path)
    with pytest.raises(TrainingStateError, match=rf"no checkpoint in .*{message}"):
        train(tmp_path, **options)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == stopped


def test_a_finished_folder_gives_the_result_again_without_training(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    _, pruner = train(tmp_path, checkpoint_every=40)
    result, again = train(tmp_path, seed=6, checkpoint_every=40, forward=stop_after(1, fail))
    assert_equal(facts(result, again), uninterrupted)
    with pytest.raises(TrainingStateError, match="all 2 pruning rounds are done"):
        pruner.fit([], torch.optim.SGD(pruner.model.parameters(), 0.1), checkpoint_dir=tmp_path)


@pytest.mark.parametrize(
    ("pruner_options", "fit_options", "message"),
    [
        (
            {"iterative_steps": 2},
            {"checkpoint_every": 5},
            "has removed the channels of 1 rounds already, other ones than the state says",
        ),
        ({"iterative_steps": 2}, {}, None),
        ({}, {"remove_early": True}, "broken off after 18 of 24 steps.* build model, optimizer and pruner anew"),
    ],
    ids=["before-a-removal", "between-rounds", "removed-early"],
)
def test_the_same_objects_after_a_removal_go_on_or_are_refused_for_that_reason(
    pruner_options: dict[str, Any], fit_options: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    samples = data(96, 0)
    batches = [samples[i : i + 16] for i in range(0, 96, 16)]

    def build() -> tuple[BiFPPruner, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        pruner = BiFPPruner(
            model,
            samples[:2][0],
            ignored_layers=[model[-1]],
            pruning_ratio=0.5,
            constraint=EqualOpportunity(0.05),
            **pruner_options,
        )
        return pruner, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def fit(pruner: BiFPPruner, optimizer: torch.optim.Optimizer, folder: Path | None, **others: Any) -> FitResult:
        options = {"validation": batches[:2], "epochs": 4, "validate_every": 1, "progress": False}
        options |= {"checkpoint_every": 6, **fit_options} if folder else {**fit_options, "checkpoint_every": None}
        return pruner.fit(batches, optimizer, checkpoint_dir=folder, **options, **others)

    stop = 13 if "checkpoint_every" in fit_options else 18
    expected = fit(*build(), None).model.state_dict()
    pruner, optimizer = build()
    with pytest.raises(Stopped):
        fit(pruner, optimizer, tmp_path, on_evaluation=lambda row: fail() if row.step == stop else None)
    files = [file.name for file in checkpoints(tmp_path)]
    if message is None:
        assert_equal(fit(pruner, optimizer, tmp_path).model.state_dict(), expected)
        return
    with pytest.raises(TrainingStateError, match=message):
        fit(pruner, optimizer, tmp_path)
    assert [file.name for file in checkpoints(tmp_path)] == files
    assert_equal(fit(*build(), tmp_path).model.state_dict(), expected)


def test_what_checkpoints_cannot_hold_is_said_before_training(tmp_path: Path) -> None:
    class Odd(torch.optim.lr_scheduler.StepLR):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "random": random.Random(0)}

    with pytest.raises(ConfigError, match="tensors and plain values only"):
        train(tmp_path, lr_scheduler=lambda optimizer: Odd(optimizer, 3), forward=stop_after(1, fail))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_checkpoint_every_must_be_a_number_of_steps(every: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected checkpoint_every as a positive whole number"):
        train(tmp_path, checkpoint_every=every)


def test_checkpoint_every_without_a_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="without checkpoint_dir"):
        train(None, checkpoint_every=3)


# ---- the page about it -------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "resume.md"


def names() -> dict[str, Any]:
    """What the page calls the user's own things."""
    model = SmallMLP()
    pruner = BiFPPruner(model, example_of(model), ignored_layers=[model.head], pruning_ratio=0.5, total_steps=15)
    loader = DataLoader(data(96, 0), batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    mine = {"torch": torch, "tp": tp, "Net": SmallMLP, "example_inputs": example_of(model), "train_loader": loader}
    return {
        **mine,
        "model": model,
        "pruner": pruner,
        "optimizer": optimizer,
        "val_loader": DataLoader(data(96, 1), batch_size=32),
    }


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit, save, load, pruned, pickled, state = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    loop = names()
    exec(save, loop)
    again = names()
    exec(load, again)
    assert_equal(dict(again["model"].state_dict()), dict(loop["model"].state_dict()))
    whole = names()
    exec(fit, whole)
    smaller = whole["result"].model
    for block in (pruned, pickled, state):
        exec(block, whole)
        assert_equal(dict(whole["model"].state_dict()), dict(smaller.state_dict()))
    assert whole["model"].fc1.out_features == 8
