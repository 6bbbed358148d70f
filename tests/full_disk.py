"""A disk that is full: a limit on the size of the files that this process writes stands for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_a_limit = pytest.mark.skipif(importlib.util.find_spec("resource") is None, reason="needs a limit on file sizes")


@contextmanager
def full_disk(after: int = 0) -> Iterator[None]:
    """Inside, nothing beyond the first bytes of a file can be written: the system refuses it with an ``OSError``."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
