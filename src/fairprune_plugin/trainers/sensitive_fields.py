"""The sensitive attribute in batches that are dicts, under names of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from ..engine.loaders.batches import SENSITIVE_KEYS
from ..errors import ConfigError


class SensitiveFields:
    """One field with group ids, or several fields of several attributes.

    Args:
        names: A name, or a sequence of them.

    Raises:
        ConfigError: For anything else.
    """

    def __init__(self, names: str | Sequence[str]) -> None:
        self._alone = isinstance(names, str)
        given = (names,) if isinstance(names, str) else names
        if not isinstance(given, Sequence) or not given or not all(isinstance(name, str) for name in given):
            raise ConfigError(f"expected sensitive as the name of a field of the batches, or several, got {names!r}")
        self._names = tuple(given)

    def __str__(self) -> str:
        return ", ".join(repr(name) for name in self._names)

    def among(self, names: Iterable[str]) -> bool:
        """Whether one of them is among these names."""
        return any(name in self._names for name in names)

    def pop(self, batch: MutableMapping[str, Any]) -> Any:
        """Takes them out of a batch: ids ``(N,)``, a mapping of them, or ``None`` if there are none."""
        taken = {name: batch.pop(name) for name in self._names if name in batch}
        return taken.get(self._names[0]) if self._alone else taken or None

    def taken_from(self, loader: Iterable[Any]) -> Iterable[Any]:
        """A loader whose dicts have them under the name that the engine reads."""
        return loader if self._alone and self._names[0] in SENSITIVE_KEYS else Renamed(loader, self)


class Renamed:
    """A loader with renamed fields; everything else about it (length, samplers, generators) is the loader's."""

    def __init__(self, loader: Iterable[Any], fields: SensitiveFields) -> None:
        self._loader, self._fields = loader, fields

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if not isinstance(batch, Mapping):
                yield batch
                continue
            rest = dict(batch)
            sensitive = self._fields.pop(rest)
            yield rest if sensitive is None else {**rest, SENSITIVE_KEYS[1]: sensitive}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
