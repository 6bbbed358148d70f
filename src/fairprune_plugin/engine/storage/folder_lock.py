"""One run at a time in a folder of checkpoints: two would drop and take over each other's files."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigError

if sys.platform != "win32":
    import fcntl

LOCK = ".run.lock"
_BUSY = (errno.EACCES, errno.EAGAIN)
_HELD: set[Path] = set()  # of this process, whose locks of files do not exclude one another


@contextmanager
def only_run_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a folder for the length of the block. The system lets go of it when the process dies, however it does.

    Where files cannot be locked (Windows, some network file systems) runs in one process still exclude one another.

    Raises:
        ConfigError: If another run holds it.
    """
    try:
        path = Path(folder).resolve()
        path.mkdir(parents=True, exist_ok=True)
        if path in _HELD:  # before the file is opened: to close it again would let go of the lock
            raise _refusal(path)
        file = (path / LOCK).open("a")
    except (OSError, TypeError):  # whoever writes there says what is wrong with it
        yield
        return
    with file:
        if not _locked(file.fileno()) or not _is_there(file.fileno(), path / LOCK):
            raise _refusal(path)
        _HELD.add(path)
        try:
            yield
        finally:
            _HELD.discard(path)
            (path / LOCK).unlink(missing_ok=True)  # while it is still held


def _is_there(handle: int, path: Path) -> bool:
    """Whether the file that was locked is still the one of that name: the run before takes it away at its end."""
    return path.exists() and os.path.samestat(os.fstat(handle), path.stat())


def _refusal(path: Path) -> ConfigError:
    return ConfigError(
        f"another run is writing its checkpoints into {path} at this moment: pass a checkpoint_dir of its own to each run, "
        "or wait for the end of that one"
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
