"""Replacing attributes of somebody else's classes and modules, counted by holders and undone exactly."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...errors import FairPruneWarning


class _Missing:
    """The owner had no attribute of its own under this name."""


MISSING: Final = _Missing()


@dataclass(frozen=True)
class Replacement:
    """``owner.name`` becomes ``value`` while a :class:`PatchSet` is in force.

    Attributes:
        owner: A class or a module.
        name: Of an attribute; it need not exist.
        value: What it becomes.
    """

    owner: Any
    name: str
    value: Any


class PatchSet:
    """Replacements that are in force as long as at least one holder wants them.

    What is put back is the very object that lay in the owner's ``__dict__`` (a ``staticmethod`` stays one, an
    inherited attribute is inherited again).

    Args:
        describe: Makes the replacements; called when the first holder comes, so that importing costs nothing.
    """

    def __init__(self, describe: Callable[[], Sequence[Replacement]]) -> None:
        self._describe = describe
        self._holders: list[object] = []
        self._done: list[tuple[Replacement, Any]] = []
        self._lock = threading.RLock()

    @property
    def in_force(self) -> bool:
        """Whether the replacements are in place."""
        return bool(self._done)

    def hold(self, holder: object) -> None:
        """``holder`` wants the replacements; the first one puts them in place, one that already holds changes nothing."""
        with self._lock:
            if any(known is holder for known in self._holders):
                return
            if not self._holders:
                self._put_in_place()
            self._holders.append(holder)

    def drop(self, holder: object) -> None:
        """``holder`` no longer wants them; the last one restores everything, a stranger changes nothing."""
        with self._lock:
            if not any(known is holder for known in self._holders):
                return
            self._holders = [known for known in self._holders if known is not holder]
            if not self._holders:
                self._restore()

    def _put_in_place(self) -> None:
        try:
            for item in self._describe():
                before = vars(item.owner).get(item.name, MISSING)
                setattr(item.owner, item.name, item.value)
                self._done.append((item, before))
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        while self._done:
            item, before = self._done.pop()
            if vars(item.owner).get(item.name, MISSING) is not item.value:
                warnings.warn(
                    f"{item.owner.__name__}.{item.name} was replaced by somebody else while this package's patch was in "
                    "force and is left as it is; restore patches in the reverse order of applying them",
                    FairPruneWarning,
                    stacklevel=4,
                )
            elif before is MISSING:
                delattr(item.owner, item.name)
            else:
                setattr(item.owner, item.name, before)
