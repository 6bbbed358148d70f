"""``fit``: its arguments, its data, interrupts, errors of the user's own, and its checkpoints."""

from __future__ import annotations

import copy
import errno
import json
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from driving import SGD, SmallMLP
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.engine.storage import atomic, checkpoint
from fairprune_plugin.engine.storage.folder_lock import FolderLock
from fairprune_plugin.errors import ConfigError, DataError, FairPruneWarning, NonFiniteError, TrainingStateError
from fairprune_plugin.torch_pruning import load_pruned, save_pruned

from .case import NOT_BEGUN, NOTHING, STEPS, UNTOUCHED, Left, Scene, assert_same, in_section


def built(scene: Scene) -> None:
    scene.build()


# ---- arguments and data ---------------------------------------------------------------------------------------

add = in_section("Arguments of `fit`", NOT_BEGUN)
for what, error, says, options in (
    ("half an epoch", ConfigError, "epochs as a positive whole number", {"epochs": 0.5}),
    ("epochs that contradict `total_steps`", ConfigError, "are 16 steps, but total_steps=8", {"epochs": 2}),
    ("`validate_every=0`", ConfigError, "validate_every as a positive whole number", {"validate_every": 0}),
    (
        "a negative number of batches for batch norms",
        ConfigError,
        "recalibration_batches",
        {"recalibration_batches": -1},
    ),
    ("an unknown way to select", ConfigError, "unknown select_by 'best'", {"select_by": "best"}),
    (
        "a way to select the moment without validation data",
        ConfigError,
        "select_by has no effect without validation data",
        {"select_by": "gap"},
    ),
    (
        "a function for evaluations without validation data",
        ConfigError,
        "on_evaluation has no effect without validation data",
        {"on_evaluation": print},
    ),
    (
        "multipliers driven by a validation loader that is not there",
        ConfigError,
        "without one",
        {"driver": "validation"},
    ),
    ("a single fold", ConfigError, "folds as a whole number ≥ 2", {"driver": "folds", "folds": 1}),
    ("something that is no function as `forward`", ConfigError, "forward as a function", {"forward": "logits"}),
    ("a list as callback", ConfigError, "on_evaluation as a function", {"on_evaluation": []}),
    ("no optimizer", ConfigError, "expected a torch optimizer", {"optimizer": None}),
    (
        "the optimizer of another model",
        ConfigError,
        "none of this model's parameters",
        {"optimizer": SGD(SmallMLP().parameters())},
    ),
    (
        "an optimizer that needs a closure",
        ConfigError,
        "computes the loss itself",
        {"optimizer": torch.optim.LBFGS([torch.zeros(1, requires_grad=True)], max_iter=1)},
    ),
    ("something that is no scheduler", ConfigError, "with a method step()", {"lr_scheduler": 0.1}),
    (
        "`checkpoint_every` without a folder",
        ConfigError,
        "has no effect without checkpoint_dir",
        {"checkpoint_every": 2},
    ),
    ("a path as loader", DataError, "something that yields batches", {"train": "data/train"}),
    ("an empty training loader", DataError, "the train loader is empty", {"train": []}),
    ("an empty validation loader", DataError, "the validation loader is empty", {"validation": []}),
    ("a generator as training loader", DataError, "not a generator", {"train": iter([1])}),
    ("a generator as validation loader", DataError, "not a generator", {"validation": iter([1])}),
    ("a number as validation loader", DataError, "expected the validation loader", {"validation": 3}),
):
    add(what, error, says, lambda scene, options=options: scene.fit(**options), prepare=built)


def _scheduler(scene: Scene, kind: Any, **options: Any) -> None:
    scene.fit(lr_scheduler=kind(SGD(scene.model.parameters(), lr=0.1), **options))


add(
    "a scheduler of another optimizer",
    ConfigError,
    "of another optimizer",
    lambda scene: _scheduler(scene, torch.optim.lr_scheduler.StepLR, step_size=1),
    prepare=built,
)
add(
    "a schedule shorter than the training",
    ConfigError,
    "has 5 of 5 steps left: build it with total_steps=8",
    lambda scene: scene.fit(lr_scheduler=torch.optim.lr_scheduler.OneCycleLR(scene.optimizer, 0.1, total_steps=5)),
    prepare=built,
)
add(
    "ReduceLROnPlateau",
    ConfigError,
    "has no metric",
    lambda scene: _scheduler(scene, torch.optim.lr_scheduler.ReduceLROnPlateau),
    prepare=built,
)
add(
    "`fit` in the middle of a loop of one's own",
    TrainingStateError,
    "3 training steps were taken already",
    lambda scene: scene.fit(),
    prepare=lambda scene: scene.train(3),
)
add(
    "`fit` twice",
    TrainingStateError,
    "build a new BiFPPruner",
    lambda scene: scene.fit(),
    prepare=lambda scene: scene.fit(),
)

add = in_section("Data for `fit`", NOT_BEGUN)
for what, says, change in (
    ("batches (x, y)", "yields (x, y) but the constraint needs (x, y, s)", lambda x, y, s: (x, y)),
    ("batches of one item", "yields 1 items", lambda x, y, s: (x,)),
    ("dicts without a target", "expected a target in the batch", lambda x, y, s: {"x": x, "s": s}),
    ("dicts without inputs", "expected inputs beside 'y'", lambda x, y, s: {"y": y}),
    ("dicts without the sensitive attribute", "have no sensitive attribute", lambda x, y, s: {"x": x, "y": y}),
    ("one group only", "one group only (women)", lambda x, y, s: (x, y, s * 0)),
    ("a group without positives", "is undefined for group men", lambda x, y, s: (x, y * (s == 0), s)),
    ("one class only", "there is nothing to learn", lambda x, y, s: (x, y * 0, s)),
    ("a group that was not declared", "group id 2", lambda x, y, s: (x, y, s + 1)),
    ("NaN among the targets", "NaN or infinite values", lambda x, y, s: (x, y / 0, s)),
):
    add(
        what,
        DataError,
        says,
        lambda scene, change=change: scene.fit([change(*b) for b in scene.batches]),
        prepare=built,
    )
add(
    "a group without positives in the validation data",
    FairPruneWarning,
    "those gaps are undefined there",
    lambda scene: scene.fit(validation=[(x, y * (s == 0), s) for x, y, s in scene.batches[:2]]),
    left=Left("the verdict is not *satisfied*", lambda *_: None),
)


def _nobody(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    x, y, s = scene.batches[0]
    return x[:0], y[:0], s[:0]


def _some_without_samples(scene: Scene) -> None:
    held_out = scene.batches[:2]
    training = [_nobody(scene), *scene.batches[:4], _nobody(scene), _nobody(scene), *scene.batches[4:], _nobody(scene)]
    result = scene.fit(training, epochs=None, validation=[*held_out, _nobody(scene)])
    assert scene.pruner.engine.step_index == STEPS
    assert result.after.samples == sum(len(y) for _, y, _ in held_out)


add(
    "batches without samples among others, in training or validation",
    None,
    "",
    _some_without_samples,
    left=Left("they are left out, as if the loader did not yield them", lambda *_: None),
)
add(
    "batches without samples only",
    DataError,
    "the train loader is empty: no batch with samples",
    lambda scene: scene.fit([_nobody(scene)] * STEPS),
    prepare=built,
)
add(
    "inputs without their targets",
    DataError,
    "a target for each sample of the train data",
    lambda scene: scene.fit([*scene.batches[:-1], (scene.batches[0][0], *_nobody(scene)[1:])]),
    prepare=built,
)
add(
    "groups to be discovered in data with one group",
    DataError,
    "the data contain one group only",
    lambda scene: scene.fit([(x, y, s * 0) for x, y, s in scene.batches]),
    prepare=lambda scene: scene.build(constraint=EqualOpportunity(0.1, groups=None)),
)

# ---- in the middle ----------------------------------------------------------------------------------------------


MOMENTS = 6


class Stopped(Exception):
    """Something of the user's own."""


def at_call(number: int, act: Any) -> Any:
    """A forward function that acts in its n-th call: measuring the dense model, training, validating, recalibrating …"""
    calls = [0]

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == number:
            act()
        out: Tensor = model(x)
        return out

    return forward


def stop() -> None:
    raise Stopped("of the user's own")


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def _settings(scene: Scene, folder: Path | None) -> dict[str, Any]:
    return {"validation": scene.batches[:2], "validate_every": 3, "checkpoint_every": 2, "checkpoint_dir": folder}


def run(folder: Path | None, number: int = 0, act: Any = stop, **options: Any) -> tuple[Any, int]:
    """A whole run of its own, and how often the model was called in it."""
    torch.manual_seed(0)
    scene = Scene(Path(), None, None)  # type: ignore[arg-type]
    forward, calls = at_call(number, act), [0]

    def counted(model: nn.Module, x: Tensor) -> Tensor:
        calls[0] += 1
        out: Tensor = forward(model, x)
        return out

    settings = _settings(scene, folder)
    if folder is None:
        settings.pop("checkpoint_every")
    return scene.fit(forward=counted, **{**settings, **options}), calls[0]


def weights(result: Any) -> dict[str, Tensor]:
    """Of the pruned model."""
    return dict(result.model.state_dict())


def interrupted_everywhere(scene: Scene, act: Any, error: type[BaseException]) -> None:
    """Stops a run at calls of the model from the first (of the dense one) to the last (of the pruned one); each time the
    second call of ``fit`` ends as if nothing had been."""
    expected, calls = run(None)
    moments = [1 + (calls - 1) * i // (MOMENTS - 1) for i in range(MOMENTS)]
    for number in moments:
        folder = scene.folder / str(number)
        try:
            run(folder, number, act)
        except error:
            pass
        else:
            raise AssertionError(f"call {number} of {calls} was not interrupted")
        for file in folder.glob("checkpoint-*.pt"):
            checkpoint.read(file)
        assert_same(weights(run(folder)[0]), weights(expected), f"stopped at call {number}")
    raise error


add = in_section(
    "`fit` is stopped", Left("every checkpoint loads, and the same call ends bit-identically", lambda *_: None)
)
add(
    "Ctrl-C at any moment of the run, with `checkpoint_dir`",
    KeyboardInterrupt,
    "",
    lambda scene: interrupted_everywhere(scene, ctrl_c, KeyboardInterrupt),
)
add(
    "an error of the forward function, the loader or the device at any moment",
    Stopped,
    "",
    lambda scene: interrupted_everywhere(scene, stop, Stopped),
)


def _callback(scene: Scene) -> None:
    expected = weights(run(None)[0])
    seen: list[Any] = []

    def failing(row: Any) -> None:
        seen.append(row)
        if len(seen) == 2:
            stop()

    try:
        run(scene.folder, on_evaluation=failing)
    finally:
        assert_same(weights(run(scene.folder)[0]), expected)


add("an error of the `on_evaluation` callback", Stopped, "of the user's own", _callback)


def _without_folder(scene: Scene) -> None:
    scene.fit(forward=at_call(12, ctrl_c))


def _continues(scene: Scene, _: Any) -> None:
    assert not scene.model.training or scene.pruner.engine.step_index > 0
    result = scene.fit()
    assert result.model.fc1.out_features == 8


add(
    "Ctrl-C without `checkpoint_dir`",
    KeyboardInterrupt,
    "",
    _without_folder,
    left=Left("`fit` of the same pruner goes on with the steps that are left", _continues),
    prepare=built,
)


def _nan_batch(scene: Scene) -> None:
    x, y, s = scene.batches[4]
    scene.fit([*scene.batches[:4], (x * torch.nan, y, s), *scene.batches[5:]])


def _finite(scene: Scene, _: Any) -> None:
    assert scene.pruner.engine.step_index == 4
    assert all(bool(torch.isfinite(value).all()) for value in scene.model.state_dict().values())


add(
    "a batch with NaN",
    NonFiniteError,
    "at training step 4",
    _nan_batch,
    left=Left("the model is that of the last good step", _finite),
    prepare=built,
)

# ---- checkpoints --------------------------------------------------------------------------------------------------

add = in_section("Checkpoints", NOTHING)


def _disk_full_at(scene: Scene, write: int) -> None:
    calls, save = [0], torch.save

    def failing(state: Any, file: Any) -> None:
        calls[0] += 1
        if calls[0] == write:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    with scene.patch.context() as patch:
        patch.setattr(checkpoint.torch, "save", failing)
        run(scene.folder)


def _result_again(scene: Scene, _: Any) -> None:
    assert not list(scene.folder.glob("*.unfinished"))
    assert_same(weights(run(scene.folder)[0]), weights(run(None)[0]))


add(
    "the disk is full from the start, or the folder is read-only",
    ConfigError,
    "No space left on device",
    lambda scene: _disk_full_at(scene, 1),
    left=Left("said before training", _result_again),
)
add(
    "the disk becomes full during the run",
    FairPruneWarning,
    "training goes on, and what is in",
    lambda scene: _disk_full_at(scene, 3),
    left=Left("the run ends as usual", _result_again),
)


def _two_runs(scene: Scene) -> None:
    with FolderLock(scene.folder):
        run(scene.folder)


add(
    "two runs in one folder at the same time",
    ConfigError,
    "another run is writing its checkpoints",
    _two_runs,
    left=Left("the other run is not disturbed", _result_again),
)
add(
    "a file in the place of the folder",
    ConfigError,
    "as a folder that exists or can be made",
    lambda scene: run(scene.folder / "file"),
    prepare=lambda scene: (scene.folder / "file").write_text(""),
)
add("a number as folder", ConfigError, "as a folder that exists or can be made", lambda scene: run(3))  # type: ignore[arg-type]


def _stopped(scene: Scene) -> None:
    try:
        run(scene.folder, 30)
    except Stopped:
        assert len(list(scene.folder.glob("checkpoint-*.pt"))) == 2


def _newest(scene: Scene) -> Path:
    return max(scene.folder.glob("checkpoint-*.pt"))


def _truncate(scene: Scene) -> None:
    _stopped(scene)
    _newest(scene).write_bytes(_newest(scene).read_bytes()[:-100])


def _foreign(scene: Scene) -> None:
    _stopped(scene)
    torch.save({"weights": torch.ones(3)}, _newest(scene))


def _flip(scene: Scene) -> None:
    _stopped(scene)
    content = bytearray(_newest(scene).read_bytes())
    content[len(content) // 2] ^= 1
    _newest(scene).write_bytes(content)


def _pickled(scene: Scene) -> None:
    _stopped(scene)
    torch.save(SmallMLP(), _newest(scene))


for what, prepare in (
    ("a truncated checkpoint", _truncate),
    ("a checkpoint with one bit flipped", _flip),
    ("a foreign file under its name", _foreign),
    ("a pickle with code in it", _pickled),
):
    add(
        what,
        FairPruneWarning,
        "newer checkpoints in",
        lambda scene: run(scene.folder),
        prepare=prepare,
        left=Left("the one before it is used; nothing in it is executed", _result_again),
    )
add(
    "no checkpoint of the folder can be used",
    TrainingStateError,
    "delete these files to start over",
    lambda scene: run(scene.folder),
    prepare=lambda scene: (scene.folder / "checkpoint-00000002.pt").write_text("no"),
)
add(
    "a folder of a run with other settings",
    TrainingStateError,
    "validate_every was 3 and is 4",
    lambda scene: run(scene.folder, validate_every=4),
    prepare=_stopped,
)
add(
    "a folder of a run with another learning rate",
    TrainingStateError,
    "lr of the optimizer was",
    lambda scene: scene.fit(optimizer=SGD(scene.model.parameters(), lr=1e-4), **_settings(scene, scene.folder)),
    prepare=_stopped,
)

add = in_section("States and files of one's own", UNTOUCHED)


def _state(scene: Scene, change: Any) -> None:
    state = scene.pruner.state_dict()
    scene.pruner.load_state_dict(change(state))


def _other_pruner(scene: Scene, width: int = 16, **options: Any) -> None:
    other = Scene(scene.folder, scene.patch, None)
    other.model = SmallMLP(width=width)
    scene.pruner.load_state_dict(other.build(**options).state_dict())


add(
    "`None` as the state of a pruner",
    TrainingStateError,
    "load what state_dict() returned",
    lambda scene: _state(scene, lambda state: None),
    prepare=built,
)
add(
    "a state with a part missing",
    TrainingStateError,
    "is damaged",
    lambda scene: _state(scene, lambda state: {k: v for k, v in state.items() if k != "engine"}),
    prepare=lambda scene: scene.train(3),
)
add(
    "a state with a mask of another length",
    TrainingStateError,
    "wrong size of keep",
    lambda scene: _state(scene, lambda state: {**state, "engine": {**state["engine"], "keep": torch.ones(3)}}),
    prepare=lambda scene: scene.train(3),
)
add(
    "the state of a pruner of another model",
    ConfigError,
    "the state is of another model",
    lambda scene: _other_pruner(scene, width=8),
    prepare=built,
)
add(
    "the state of a pruner with another ratio",
    ConfigError,
    "pruning_ratio was 0.25 and is 0.5",
    lambda scene: _other_pruner(scene, pruning_ratio=0.25),
    prepare=built,
)
add(
    "`rebuild_optimizer` of nothing",
    ConfigError,
    "expected a torch optimizer",
    lambda scene: scene.pruner.rebuild_optimizer(None),
    prepare=built,
)
add(
    "`save_pruned` while channels are only hidden",
    TrainingStateError,
    "",
    lambda scene: save_pruned(scene.model, scene.pruner, scene.folder / "p.safetensors"),
    prepare=lambda scene: scene.train(STEPS),
)
add(
    "`save_pruned` into a folder that is not there",
    ConfigError,
    "make it first",
    lambda scene: save_pruned(scene.model, scene.pruner, scene.folder / "no/such/p.safetensors"),
    prepare=lambda scene: (scene.train(STEPS), scene.pruner.step()),
)


def _saved(scene: Scene) -> None:
    scene.train(STEPS)
    scene.pruner.step()
    save_pruned(scene.model, scene.pruner, scene.folder / "p.safetensors")


add(
    "`load_pruned` into a model of another width",
    ConfigError,
    "",
    lambda scene: load_pruned(SmallMLP(width=8), scene.folder / "p.safetensors", torch.randn(4, 6)),
    prepare=_saved,
)
add(
    "`load_pruned` of a file that is something else",
    ConfigError,
    "not a safetensors file",
    lambda scene: load_pruned(scene.model, scene.folder / "p.safetensors", torch.randn(4, 6)),
    prepare=lambda scene: (scene.folder / "p.safetensors").write_text(json.dumps({})),
)


def _flip_saved(scene: Scene) -> None:
    _saved(scene)
    path = scene.folder / "p.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


class Renamed(SmallMLP):
    """The layers of the class that was saved."""


def _double(scene: Scene) -> None:
    scene.train(STEPS)
    scene.pruner.step()
    save_pruned(scene.model.double(), scene.pruner, scene.folder / "p.safetensors")
    back = load_pruned(SmallMLP(), scene.folder / "p.safetensors", torch.randn(4, 6))
    assert back.fc1.weight.dtype == torch.float64


def _sparse(scene: Scene) -> None:
    scene.model.register_buffer("links", torch.eye(4).to_sparse())
    scene.train(STEPS)
    scene.pruner.step()


def _lazy() -> SmallMLP:
    model = SmallMLP()
    model.fc2 = nn.LazyLinear(16)
    return model


def _disk_full_for_saved(scene: Scene) -> None:
    with scene.patch.context() as patch:
        patch.setattr(atomic.os, "fsync", lambda *_: _raise(OSError(errno.ENOSPC, "No space left on device")))
        save_pruned(scene.model, scene.pruner, scene.folder / "p.safetensors")


def _raise(error: Exception) -> None:
    raise error


def _old_file(scene: Scene, _: Any) -> None:
    assert [file.name for file in scene.folder.iterdir()] == ["p.safetensors"]
    load_pruned(SmallMLP(), scene.folder / "p.safetensors", torch.randn(4, 6))


add(
    "`load_pruned` of a file with one bit flipped",
    ConfigError,
    "is damaged",
    lambda scene: load_pruned(SmallMLP(), scene.folder / "p.safetensors", torch.randn(4, 6)),
    prepare=_flip_saved,
)
add(
    "`load_pruned` into another class whose shapes are the same",
    FairPruneWarning,
    "nothing to worry about if the class was moved or renamed",
    lambda scene: load_pruned(Renamed(), scene.folder / "p.safetensors", torch.randn(4, 6)),
    prepare=_saved,
    left=Left("the weights are loaded", lambda *_: None),
)
add(
    "`load_pruned` into a model with lazy layers that have no size yet",
    ConfigError,
    "run the model on the example inputs once",
    lambda scene: load_pruned(_lazy(), scene.folder / "p.safetensors", torch.randn(4, 6)),
    prepare=_saved,
)
add(
    "`load_pruned` of a model that was saved in half or double precision",
    None,
    "",
    _double,
    left=Left("it comes back in that precision", lambda *_: None),
)
add(
    "`save_pruned` of a sparse buffer",
    ConfigError,
    "make it dense with to_dense()",
    lambda scene: save_pruned(scene.model, scene.pruner, scene.folder / "p.safetensors"),
    prepare=_sparse,
    left=NOTHING,
)
add(
    "`save_pruned` on a full disk",
    ConfigError,
    "No space left on device",
    _disk_full_for_saved,
    prepare=_saved,
    left=Left("the file that was there is as it was", _old_file),
)
add(
    "a copy of the pruned state in the dense class",
    RuntimeError,
    "size mismatch",
    lambda scene: SmallMLP().load_state_dict(copy.deepcopy(scene.model.state_dict())),
    prepare=_saved,
    left=Left("torch says so; `load_pruned` is the way", lambda *_: None),
)
