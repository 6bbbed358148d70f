"""When a run of ``fit`` reads and writes its checkpoints, and which of several ranks does."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from ...distributed import Ranks
from ...errors import ConfigError
from ...warn import warn_caller
from ..storage.checkpoint import CheckpointFolder
from ..storage.folder_lock import FolderLock
from .state import check_run_state, load_run_state, run_state

if TYPE_CHECKING:
    from .fit import Run


_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # a disk, a file, a quota


class RunCheckpoints:
    """The checkpoints of one run, whose folder is its own inside of the ``with`` block.

    Args:
        path: The folder; ``None``: nothing is read or written. What a relative one means is settled here.
        ranks: That train together.

    Raises:
        ConfigError: For what is no path.
    """

    def __init__(self, path: str | os.PathLike[str] | None, ranks: Ranks) -> None:
        try:
            self._path = None if path is None else Path(path).absolute()
        except TypeError as error:
            raise ConfigError(f"expected checkpoint_dir as a folder that exists or can be made: {error}") from error
        self._ranks = ranks
        self._folder: CheckpointFolder | None = None
        self._lock: FolderLock | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, traceback)

    @property
    def wanted(self) -> bool:
        """Whether the run has a folder for them."""
        return self._path is not None

    def resume(self, run: Run) -> bool:
        """Puts a run where its newest checkpoint was written; returns whether there was one.

        Raises:
            ConfigError: If the checkpoints are of another run, or another run is writing into the folder.
            TrainingStateError: If there are some and none can be used.
        """
        if not self.wanted:
            return False
        state = self._ranks.collect(lambda: self._newest(run))[0]
        if state is None:
            return False
        self._ranks.collect(lambda: load_run_state(run, state))
        return True

    def _newest(self, run: Run) -> dict[str, Any] | None:
        """One rank reads and writes files; the others are told what was in them."""
        if not self._ranks.first:
            return None
        assert self._path is not None
        self._lock = self._held.enter_context(FolderLock(self._path))
        self._folder = CheckpointFolder(self._path)
        return self._folder.newest(lambda state: check_run_state(run, state))

    def write(self, run: Run) -> None:
        """Not of weights gone bad (the next loss will say so): the last good checkpoint is worth more.

        Raises:
            ConfigError: If the first checkpoint cannot be written.

        Warns:
            FairPruneWarning: If a later one cannot: the run goes on.
        """
        if not self.wanted:
            return
        if all(bool(torch.isfinite(p).all()) for p in chain(run.host.model.parameters(), run.beside)):
            state = run_state(run)
            self._ranks.collect(lambda: self._save(state, run.host.engine.step_index))

    def _save(self, state: dict[str, Any], step: int) -> None:
        """One rank writes."""
        if self._folder is None or self._lock is None:
            return
        try:
            self._lock.renew()
        except ConfigError as error:
            self._folder = None
            warn_caller(
                f"the folder of the checkpoints was removed and belongs to another run now ({error}): this one goes on, and "
                "writes none any more"
            )
            return
        try:
            self._folder.save(state, step)
        except OSError as error:
            cure = (
                "free space there"
                if error.errno in _FULL
                else "see to it that the folder is there and can be written to"
            )
            if step == 0:
                raise ConfigError(
                    f"cannot write checkpoints into {self._folder.path} ({error}): {cure}, or pass another checkpoint_dir"
                ) from error
            warn_caller(
                f"the checkpoint of step {step} could not be written ({error}): training goes on, and what is in "
                f"{self._folder.path} stays; {cure} before it ends"
            )
