"""Checkpoint files of a run: written whole or not at all, checked when read, never executed.

A file is what ``torch.save`` writes, tensors and plain values only, so that ``torch.load(path, weights_only=True)``
reads it. ``torch.load`` does not look at the checksums in it, and they are not of everything in it (one bit of the archive's
directory turns a tensor into whatever is in memory); so the comment at its end is a digest of all before it, which
:func:`read` looks at.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ...errors import ConfigError, FairPruneError, TrainingStateError
from ...warn import warn_caller
from .atomic import UNFINISHED, atomically

NAME = re.compile(r"checkpoint-(\d{8})\.pt")
MARK = b"sha256 "
SEAL = len(MARK) + 2 * hashlib.sha256().digest_size


class CheckpointFolder:
    """The checkpoints of one run: the newest and the one before it.

    Args:
        path: Made if it is not there; what else lies in it is left alone.

    Raises:
        ConfigError: If the path is a file, or the folder cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = Path(path)
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, TypeError) as error:
            raise ConfigError(f"expected checkpoint_dir as a folder that exists or can be made: {error}") from error
        for leftover in self.path.glob(f"checkpoint-*.pt{UNFINISHED}"):  # a process died while it wrote this one
            leftover.unlink(missing_ok=True)
        self._newest_good: Path | None = None
        self._tried = False

    def files(self) -> list[Path]:
        """Checkpoints that are there, newest first."""
        return sorted((file for file in self.path.iterdir() if NAME.fullmatch(file.name)), reverse=True)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Writes the checkpoint of a training step, then drops those older than the one before it.

        Raises:
            ConfigError: At the first checkpoint, if the state has something in it that cannot be read back.
        """
        self.path.mkdir(parents=True, exist_ok=True)  # somebody may have removed it meanwhile
        path = self.path / f"checkpoint-{step:08d}.pt"
        previous = self._newest_good
        write(path, state, try_reading=not self._tried)
        self._tried = True
        self._newest_good = path
        if previous is not None and previous != path:
            # Files newer than this one are none of this run's: they were refused, and are not ours to delete.
            for file in self.files():
                if file.name < min(previous.name, path.name):
                    file.unlink(missing_ok=True)
        return path

    def newest(self, check: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
        """The newest checkpoint that can be used; ``None`` in a folder without any.

        Args:
            check: Raises a :class:`~...errors.FairPruneError` for a state that belongs to something else.

        Raises:
            TrainingStateError: If there are checkpoints and none can be used: starting over would overwrite them.
        """
        reasons = []
        for file in self.files():
            try:
                state = read(file)
                check(state)
            except FairPruneError as error:
                reasons.append(f"{file.name}: {error}")
                continue
            if reasons:
                warn_caller(
                    f"continuing from {file.name}, as newer checkpoints in {self.path} cannot be used: {'; '.join(reasons)}"
                )
            self._newest_good = file
            return state
        if reasons:
            raise TrainingStateError(
                f"no checkpoint in {self.path} can be used: {'; '.join(reasons)}. Pass another checkpoint_dir, or delete "
                "these files to start over"
            )
        return None


def write(path: Path, state: dict[str, Any], *, try_reading: bool = False) -> None:
    """Puts a state into a file, atomically.

    Args:
        path: Where to.
        state: Tensors and plain values.
        try_reading: Whether to see if it can be read back before it takes the place of the old file.

    Raises:
        ConfigError: If it cannot.
        OSError: If the disk is full, or the folder is gone; the old file is still there then.
    """
    with atomically(path) as unfinished:
        _save(state, unfinished)
        if try_reading:
            _try(unfinished)


def _save(state: dict[str, Any], path: Path) -> None:
    """Through a file of Python's: given a path, ``torch.save`` makes a ``RuntimeError`` without a reason of a full disk; and
    of an ``OSError`` it mostly makes one as well, when it then closes its archive."""
    try:
        with path.open("w+b") as file:
            torch.save(state, file)
            _seal(file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _seal(file: BinaryIO) -> None:
    """Ends an archive, whose last two bytes are the length of its comment, with the digest of all before it."""
    file.seek(-2, os.SEEK_END)
    file.write(SEAL.to_bytes(2, "little"))
    digest = _digest(file, file.tell())
    file.write(MARK + digest)


def _digest(file: BinaryIO, size: int) -> bytes:
    """Of the first bytes of a file; then it stands behind them."""
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (part := file.read(min(size, 2**20))):
        digest.update(part)
        size -= len(part)
    file.seek(0, os.SEEK_CUR)  # from reading to writing
    return digest.hexdigest().encode()


def _whole(path: Path) -> bool:
    """Whether the digest at the end of a file is that of the rest.

    Raises:
        ValueError: If there is none.
    """
    with path.open("rb") as file:
        size = max(0, file.seek(0, os.SEEK_END) - SEAL)
        file.seek(size)
        seal = file.read()
        if not seal.startswith(MARK):
            raise ValueError("without a digest at its end")
        return seal == MARK + _digest(file, size)


def _try(path: Path) -> None:
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            "checkpoints hold tensors and plain values only, so that nothing in them is ever executed, but the state of "
            f"the model, the optimizer, the scheduler or the task loss has something else in it: {_first_line(error)}"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """The state in a file, on the CPU.

    Raises:
        TrainingStateError: For a file that is not a checkpoint, not a whole one, or altered.
    """
    try:
        whole = _whole(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True) if whole else {}
    except Exception as error:  # files of other things make the reader fail in ways of their own
        raise TrainingStateError(f"not a checkpoint, or not a whole one ({_first_line(error)})") from error
    if not whole:
        raise TrainingStateError("altered since it was written: the digest at its end is that of something else")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
