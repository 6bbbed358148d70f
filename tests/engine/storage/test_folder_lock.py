"""A folder is one run's, until its process ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fairprune_plugin.engine.storage.folder_lock import FolderLock
from fairprune_plugin.errors import ConfigError


def test_a_second_run_in_the_same_process_is_refused_and_leaves_the_first_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with FolderLock(folder):
        for same in (folder, folder / ".." / "run"):
            with pytest.raises(ConfigError, match="another run is writing"), FolderLock(same):
                pass
        with FolderLock(tmp_path / "other"):
            pass
    with FolderLock(folder):
        pass


def test_an_error_lets_go_of_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FolderLock(tmp_path):
        raise ZeroDivisionError
    with FolderLock(tmp_path):
        pass


def test_what_is_no_folder_is_left_to_whoever_writes_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with FolderLock(file):
        assert file.read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs another process")
def test_another_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with FolderLock(tmp_path):
                os.write(writing, b"held")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(reading, 4) == b"held"
    try:
        with pytest.raises(ConfigError, match="another run is writing"), FolderLock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    with FolderLock(tmp_path):
        pass
