"""When a run reads and writes checkpoints, and which of its ranks does; what is in them is another file's matter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from fairprune_plugin.distributed import ALONE, Ranks
from fairprune_plugin.engine.run import checkpoints
from fairprune_plugin.engine.run.checkpoints import RunCheckpoints
from fairprune_plugin.errors import ConfigError, FairPruneWarning, TrainingStateError
from full_disk import full_disk, needs_a_limit

T = TypeVar("T")


class ToyRun:
    """A model, a position, and a record of what was asked of the run."""

    def __init__(self, step: int = 0, name: str = "mine") -> None:
        self.host = SimpleNamespace(model=nn.Linear(3, 2), engine=SimpleNamespace(step_index=step))
        self.beside = [torch.ones(1)]
        self.name = name
        self.states_taken = 0
        self.loaded: list[int] = []

    def at(self, step: int) -> ToyRun:
        self.host.engine.step_index = step
        return self


@pytest.fixture(autouse=True)
def _toy_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def state_of(run: ToyRun) -> dict[str, Any]:
        run.states_taken += 1
        return {"name": run.name, "step": run.host.engine.step_index, "weights": torch.ones(300)}

    def check(run: ToyRun, state: dict[str, Any]) -> None:
        if state["name"] != run.name:
            raise ConfigError(f"of the run {state['name']}")

    monkeypatch.setattr(checkpoints, "run_state", state_of)
    monkeypatch.setattr(checkpoints, "check_run_state", check)
    monkeypatch.setattr(checkpoints, "load_run_state", lambda run, state: run.loaded.append(state["step"]))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def write(folder: Path, *steps: int, name: str = "mine") -> None:
    """A run that was here before."""
    with RunCheckpoints(folder, ALONE) as checkpoints:
        run = ToyRun(name=name)
        checkpoints.resume(run)
        for step in steps:
            checkpoints.write(run.at(step))


def test_without_a_folder_nothing_is_read_or_written() -> None:
    run = ToyRun()
    with RunCheckpoints(None, ALONE) as checkpoints:
        assert not checkpoints.wanted
        assert not checkpoints.resume(run)
        checkpoints.write(run)
    assert (run.states_taken, run.loaded) == (0, [])


def test_a_new_folder_is_made_and_the_next_run_goes_on_from_the_newest_in_it(tmp_path: Path) -> None:
    folder, run = tmp_path / "new" / "run", ToyRun()
    with RunCheckpoints(str(folder), ALONE) as checkpoints:
        assert checkpoints.wanted
        assert not checkpoints.resume(run)
        assert run.loaded == []
        for step in (0, 4, 8):
            checkpoints.write(run.at(step))
        assert names(folder) == [".run.lock", "checkpoint-00000004.pt", "checkpoint-00000008.pt"]
    again = ToyRun()
    with RunCheckpoints(folder, ALONE) as checkpoints:
        assert checkpoints.resume(again)
    assert again.loaded == [8]


def test_inside_of_the_block_the_folder_is_this_runs(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path, ALONE) as first:
        first.resume(ToyRun())
        for _ in range(2):  # the one that was refused does not take the lock away with it
            with (
                RunCheckpoints(tmp_path, ALONE) as other,
                pytest.raises(ConfigError, match="another run is writing its checkpoints"),
            ):
                other.resume(ToyRun())
        first.write(ToyRun(3))
    assert names(tmp_path) == ["checkpoint-00000003.pt"]
    write(tmp_path, 4)  # and after it anybody's


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_however_the_block_ends_the_folder_is_free(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), RunCheckpoints(tmp_path, ALONE) as checkpoints:
        checkpoints.resume(ToyRun())
        raise error
    write(tmp_path, 1)


def test_checkpoints_of_another_run_are_refused_left_alone_and_not_locked(tmp_path: Path) -> None:
    write(tmp_path, 2, 5, name="another")
    before, run = {file: file.read_bytes() for file in tmp_path.iterdir()}, ToyRun()
    for _ in range(2):
        with (
            pytest.raises(TrainingStateError, match=r"no checkpoint in .* can be used: .*of the run another"),
            RunCheckpoints(tmp_path, ALONE) as checkpoints,
        ):
            checkpoints.resume(run)
    assert run.loaded == []
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_warning_of_a_damaged_checkpoint_points_at_the_users_line(tmp_path: Path) -> None:
    write(tmp_path, 2, 5)
    (tmp_path / "checkpoint-00000005.pt").write_bytes(b"half")
    run = ToyRun()
    with (
        RunCheckpoints(tmp_path, ALONE) as checkpoints,
        pytest.warns(FairPruneWarning, match="continuing from checkpoint-00000002.pt") as caught,
    ):
        assert checkpoints.resume(run)
    assert [warning.filename for warning in caught] == [__file__]
    assert run.loaded == [2]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["weight", "bias", "beside"])
def test_weights_gone_bad_take_no_place_of_good_ones(tmp_path: Path, bad: float, where: str) -> None:
    run = ToyRun()
    with RunCheckpoints(tmp_path, ALONE) as checkpoints:
        checkpoints.resume(run)
        checkpoints.write(run.at(2))
        with torch.no_grad():
            (run.beside[0] if where == "beside" else getattr(run.host.model, where))[-1] = bad
        for step in (3, 4, 5):
            checkpoints.write(run.at(step))
    assert run.states_taken == 1
    assert names(tmp_path) == ["checkpoint-00000002.pt"]


# ---- a disk that is full -----------------------------------------------------------------------------------


@needs_a_limit
def test_a_first_checkpoint_that_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    message = (
        r"^cannot write checkpoints into .* \(.*File too large.*\): free space there, or pass another checkpoint_dir"
    )
    with RunCheckpoints(tmp_path, ALONE) as checkpoints:
        checkpoints.resume(ToyRun())
        with full_disk(), pytest.raises(ConfigError, match=message) as refused:
            checkpoints.write(ToyRun(0))
    assert isinstance(refused.value.__cause__, OSError)
    assert names(tmp_path) == []


@needs_a_limit
def test_a_later_one_is_warned_of_at_the_users_line_and_the_run_goes_on(tmp_path: Path) -> None:
    run, message = (
        ToyRun(),
        r"^the checkpoint of step 4 could not be written .*training goes on, and what is in .* stays; free space there",
    )
    with RunCheckpoints(tmp_path, ALONE) as checkpoints:
        checkpoints.resume(run)
        checkpoints.write(run.at(2))
        with full_disk(after=100), pytest.warns(FairPruneWarning, match=message) as caught:
            checkpoints.write(run.at(4))
        assert [warning.filename for warning in caught] == [__file__]
        assert names(tmp_path) == [".run.lock", "checkpoint-00000002.pt"]
        checkpoints.write(run.at(6))  # there is room again
    assert names(tmp_path) == ["checkpoint-00000002.pt", "checkpoint-00000006.pt"]


# ---- a folder that is not what it was ----------------------------------------------------------------------


def test_a_folder_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    folder, run = tmp_path / "run", ToyRun()
    with RunCheckpoints(folder, ALONE) as checkpoints:
        checkpoints.resume(run)
        checkpoints.write(run.at(2))
        folder.rename(tmp_path / "elsewhere")
        checkpoints.write(run.at(3))
        with pytest.raises(ConfigError, match="another run is writing"):
            RunCheckpoints(folder, ALONE).resume(run)
    assert names(tmp_path / "elsewhere") == [".run.lock", "checkpoint-00000002.pt"]
    assert names(folder) == ["checkpoint-00000003.pt"]


@needs_a_limit
def test_a_folder_that_another_run_has_now_is_left_to_it(tmp_path: Path) -> None:
    folder, run = tmp_path / "run", ToyRun()
    other = (
        "import sys; from fairprune_plugin.engine.storage.folder_lock import FolderLock\n"
        "with FolderLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    with RunCheckpoints(folder, ALONE) as checkpoints:
        checkpoints.resume(run)
        checkpoints.write(run.at(2))
        shutil.rmtree(folder)
        process = subprocess.Popen(
            [sys.executable, "-c", other, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.warns(FairPruneWarning, match="belongs to another run now .* this one goes on, and writes none"):
            checkpoints.write(run.at(3))
        checkpoints.write(run.at(4))
    assert names(folder) == [".run.lock"]  # of the other one
    process.communicate()
    assert process.returncode == 0
    assert names(folder) == []


def test_a_folder_that_cannot_be_made_again_does_not_end_the_run(tmp_path: Path) -> None:
    folder, run = tmp_path / "runs" / "run", ToyRun()
    with RunCheckpoints(folder, ALONE) as checkpoints:
        checkpoints.resume(run)
        shutil.rmtree(folder.parent)
        folder.parent.write_text("in its place")
        with pytest.warns(FairPruneWarning, match="training goes on.* see to it that the folder is there"):
            checkpoints.write(run.at(3))


def test_a_lock_that_cannot_be_taken_away_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with RunCheckpoints(tmp_path, ALONE) as checkpoints:
        checkpoints.resume(ToyRun())
        monkeypatch.setattr(Path, "unlink", refused)
    with RunCheckpoints(tmp_path, ALONE) as checkpoints:
        assert not checkpoints.resume(ToyRun())


def test_a_relative_folder_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunCheckpoints("run", ALONE) as checkpoints:
        checkpoints.resume(ToyRun())
        (tmp_path / "else").mkdir()
        monkeypatch.chdir(tmp_path / "else")
        checkpoints.write(ToyRun(5))
    assert names(tmp_path / "run") == ["checkpoint-00000005.pt"]
    assert names(tmp_path / "else") == []


# ---- several ranks -----------------------------------------------------------------------------------------


class OneOfTwo(Ranks):
    """A rank of two that are played one after the other, the first one first: what it tells is kept for the second."""

    def __init__(self, index: int, told: list[Any]) -> None:
        super().__init__()
        self._index, self._told = index, told

    @property
    def size(self) -> int:
        return 2

    @property
    def index(self) -> int:
        return self._index

    def collect(self, local: Callable[[], T]) -> list[Any]:
        own = local()
        if self._index == 0:
            self._told.append(own)
            return [own, None]
        return [self._told.pop(0), own]


def test_the_first_rank_reads_and_all_of_them_load_what_it_has_read(tmp_path: Path) -> None:
    write(tmp_path, 3, 7)
    told: list[Any] = []
    for index in (0, 1):
        run = ToyRun()
        # The second one cannot see the folder, as on another machine.
        path = tmp_path if index == 0 else tmp_path / "of another machine"
        with RunCheckpoints(path, OneOfTwo(index, told)) as checkpoints:
            assert checkpoints.resume(run)
        assert run.loaded == [7]
    assert names(tmp_path) == ["checkpoint-00000003.pt", "checkpoint-00000007.pt"]


def test_the_first_rank_writes_and_all_of_them_tell_their_states(tmp_path: Path) -> None:
    told: list[Any] = []
    for index in (0, 1):
        run = ToyRun()
        path = tmp_path / str(index)
        with RunCheckpoints(path, OneOfTwo(index, told)) as checkpoints:
            assert not checkpoints.resume(run)
            for step in (0, 5):
                checkpoints.write(run.at(step))
        assert run.states_taken == 2, "a state is put together by all ranks"
    assert names(tmp_path) == ["0"]
    assert names(tmp_path / "0") == ["checkpoint-00000000.pt", "checkpoint-00000005.pt"]
