"""One run at a time in a folder of checkpoints: two would drop and take over each other's files."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from ...errors import ConfigError

if sys.platform != "win32":
    import fcntl

LOCK = ".run.lock"
_BUSY = (errno.EACCES, errno.EAGAIN)
_HELD: set[Path] = set()  # of this process, whose locks of files do not exclude one another


class FolderLock:
    """Holds a folder for the length of a ``with`` block. The system lets go of it when the process dies, however it does.

    Where files cannot be locked (Windows, some network file systems) runs in one process still exclude one another.

    Args:
        folder: Made if it is not there; what cannot be one is left to whoever writes there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).resolve()
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        """
        Raises:
            ConfigError: If another run holds the folder.
        """
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if self._is_there(self._file):
            with suppress(OSError):  # in a folder that nobody may write to any more; it is not locked then, only there
                self._path.unlink(missing_ok=True)  # while it is still held
        self._let_go(self._file)

    def renew(self) -> None:
        """Takes the folder again if somebody has removed it meanwhile, with the file that was locked.

        Raises:
            ConfigError: If another run has it now.
        """
        if self._file is not None and not self._is_there(self._file):
            self._let_go(self._file)
            self._take()

    @property
    def _path(self) -> Path:
        return self._folder / LOCK

    def _take(self) -> None:
        if self._folder in _HELD:  # before the file is opened: to close it again would let go of the lock
            raise self._refusal()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a")
        except OSError:  # whoever writes there says what is wrong with it
            return
        if not _locked(file.fileno()) or not self._is_there(file):
            file.close()
            raise self._refusal()
        self._file = file
        _HELD.add(self._folder)

    def _let_go(self, file: TextIO) -> None:
        _HELD.discard(self._folder)
        file.close()
        self._file = None

    def _is_there(self, file: TextIO) -> bool:
        """Whether the file that was locked is still the one of that name: the run before takes it away at its end."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except OSError:
            return False

    def _refusal(self) -> ConfigError:
        return ConfigError(
            f"another run is writing its checkpoints into {self._folder} at this moment: pass a checkpoint_dir of its own "
            "to each run, or wait for the end of that one"
        )


def _locked(handle: int) -> bool:
    """A POSIX lock: unlike that of ``flock``, no worker process that was forked meanwhile keeps it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _BUSY
    return True
