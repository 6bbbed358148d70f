"""Checkpoint files: what is damaged is refused, the one before it is used, and nothing else is touched."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from fairprune_plugin.engine.storage.checkpoint import CheckpointFolder, read, write
from fairprune_plugin.errors import ConfigError, FairPruneWarning, TrainingStateError
from full_disk import full_disk, needs_a_limit


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.arange(300.0) + step, "nested": [{"a": (1, None, "x")}]}


def accept(_: dict[str, Any]) -> None:
    """Any state is one of this run."""


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def saved(folder: Path, *steps: int) -> CheckpointFolder:
    checkpoints = CheckpointFolder(folder)
    for step in steps:
        checkpoints.save(state(step), step)
    return checkpoints


def test_a_checkpoint_is_read_back_and_torch_reads_it_without_executing_anything(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    found = CheckpointFolder(tmp_path).newest(accept)
    assert found is not None
    assert found["step"] == 7
    assert found["nested"] == [{"a": (1, None, "x")}]
    assert torch.equal(found["weights"], state(7)["weights"])
    plain = torch.load(tmp_path / "checkpoint-00000007.pt", weights_only=True)
    assert torch.equal(plain["weights"], state(7)["weights"])


def test_the_newest_and_the_one_before_it_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path, 2, 9, 10, 200)
    assert names(tmp_path) == ["checkpoint-00000010.pt", "checkpoint-00000200.pt", "notes.txt"]
    resumed = CheckpointFolder(tmp_path)
    assert resumed.newest(accept)["step"] == 200  # type: ignore[index]
    resumed.save(state(300), 300)
    assert names(tmp_path) == ["checkpoint-00000200.pt", "checkpoint-00000300.pt", "notes.txt"]


def test_an_empty_folder_has_none_and_is_made(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "a" / "b").newest(accept) is None
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="checkpoint_dir as a folder"):
        CheckpointFolder(tmp_path / "file")
    with pytest.raises(ConfigError, match="checkpoint_dir as a folder"):
        CheckpointFolder(7)  # type: ignore[arg-type]


def test_what_a_dead_process_left_unfinished_goes(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / "checkpoint-00000002.pt.unfinished").write_bytes(b"half")
    (tmp_path / "other.unfinished").write_bytes(b"not ours")
    assert CheckpointFolder(tmp_path).newest(accept)["step"] == 1  # type: ignore[index]
    assert names(tmp_path) == ["checkpoint-00000001.pt", "other.unfinished"]


def test_truncated_anywhere_the_previous_one_is_used(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    newest = tmp_path / "checkpoint-00000002.pt"
    whole = newest.read_bytes()
    for length in [*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        newest.write_bytes(whole[:length])
        with pytest.warns(FairPruneWarning, match=r"continuing from checkpoint-00000001.pt.*checkpoint-00000002.pt"):
            found = CheckpointFolder(tmp_path).newest(accept)
        assert found is not None
        assert found["step"] == 1
    assert len(names(tmp_path)) == 2, "nothing is deleted"


def test_an_altered_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, 5).files()[0]
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        with pytest.raises(TrainingStateError, match=r"altered|not a whole one"):
            read(path)
    unseen_by_torch = 0
    first = whole.index(torch.arange(300.0).add(5).numpy().tobytes())
    for position in range(first, first + 1200, 101):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        with pytest.raises(TrainingStateError, match=r"altered|not a whole one"):
            read(path)
        unseen_by_torch += not torch.equal(torch.load(path, weights_only=True)["weights"], state(5)["weights"])
    assert unseen_by_torch > 0, "the reason why checksums are looked at; when this fails, they need not be"


def test_a_tensor_that_the_archive_calls_a_folder_is_refused(tmp_path: Path) -> None:
    """Checksums of what is in the archive are right, and torch reads memory that nobody has written."""
    path = saved(tmp_path, 5).files()[0]
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (entry,) = (item for item in archive.infolist() if item.file_size == 1200)
        name = entry.filename.encode()
        whole[whole.index(name, archive.start_dir) - 46 + 38] ^= 0x10  # a bit of its external attributes
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with pytest.raises(TrainingStateError, match="altered since it was written: the digest at its end"):
        read(path)


def test_the_file_is_an_archive_as_others_are(tmp_path: Path) -> None:
    path = saved(tmp_path, 5).files()[0]
    with zipfile.ZipFile(path) as archive:
        assert re.fullmatch(rb"sha256 [0-9a-f]{64}", archive.comment)
        assert archive.testzip() is None


class Evil:
    """Executes something when it is unpickled."""

    def __reduce__(self) -> Any:
        return (warnings.warn, ("executed",))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK" + bytes(500)),
        lambda path: path.write_text("hello"),
        lambda path: torch.save(torch.zeros(3), path),
        lambda path: torch.save({"a": Evil()}, path),
        lambda path: torch.save(torch.nn.Linear(2, 2), path),
        lambda path: path.mkdir(),
    ],
    ids=["empty", "zeros", "text", "tensor", "code", "module", "folder"],
)
def test_a_foreign_file_is_refused_and_never_executed(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "checkpoint-00000009.pt")
    with pytest.raises(TrainingStateError, match=r"no checkpoint in .* can be used.*checkpoint-00000009.pt"):
        CheckpointFolder(tmp_path).newest(accept)
    saved(tmp_path, 1)
    with pytest.warns(FairPruneWarning, match="continuing from checkpoint-00000001.pt"):
        assert CheckpointFolder(tmp_path).newest(accept)["step"] == 1  # type: ignore[index]


def test_a_state_of_something_else_is_passed_over_and_left_alone(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)

    def only_one(found: dict[str, Any]) -> None:
        if found["step"] != 1:
            raise ConfigError("of another model")

    folder = CheckpointFolder(tmp_path)
    with pytest.warns(FairPruneWarning, match="of another model"):
        assert folder.newest(only_one)["step"] == 1  # type: ignore[index]
    folder.save(state(2), 2)  # the run gets there itself and writes its own
    folder.save(state(3), 3)
    assert names(tmp_path) == ["checkpoint-00000002.pt", "checkpoint-00000003.pt"]


def test_rotation_never_drops_what_is_newer_than_the_run(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / "checkpoint-00000050.pt").write_bytes(b"not one")
    folder = CheckpointFolder(tmp_path)
    with pytest.warns(FairPruneWarning, match="checkpoint-00000050"):
        folder.newest(accept)
    folder.save(state(2), 2)
    folder.save(state(3), 3)
    assert names(tmp_path) == [f"checkpoint-000000{n}.pt" for n in ("02", "03", "50")]


def test_what_cannot_be_read_back_is_refused_at_the_first_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensors and plain values only"):
        CheckpointFolder(tmp_path).save({"schedule": Evil()}, 0)
    assert names(tmp_path) == []


def test_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, {"a": 1})
    write(path, {"a": 2}, try_reading=True)
    assert read(path) == {"a": 2}


@needs_a_limit
@pytest.mark.parametrize("kept", [0, 100, 1500, 2500, 100_000], ids=lambda kept: f"after-{kept}-bytes")
def test_a_disk_that_is_full_is_an_os_error_and_the_old_file_stays(tmp_path: Path, kept: int) -> None:
    """``torch.save`` alone makes a ``RuntimeError`` of it; in the middle of a large tensor also when a file of Python's says
    what it is."""
    path, large = tmp_path / "a.pt", {"large": torch.ones(30_000)}
    write(path, {**state(1), **large})
    before = path.read_bytes()
    assert kept < len(before)
    with full_disk(after=kept), pytest.raises(OSError, match="File too large"):
        write(path, {**state(2), **large})
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.pt"]


def test_a_folder_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "gone" / "a.pt", state(1))
