"""Image files behind one interface, whether they lie in a folder or in a zip."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

from .errors import FaceDataError, MissingFaceDataError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


class ImageSource:
    """Images of one data set, addressed by the last ``depth`` parts of their path.

    Publishers and mirrors nest the same files differently (``img_align_celeba/x.jpg``,
    ``img_align_celeba/img_align_celeba/x.jpg``), so what lies above those parts is ignored.

    Args:
        location: A folder, or a file ending in ``.zip``.
        depth: Number of path parts that make a name: 1 gives ``000001.jpg``, 2 gives ``train/1.jpg``.

    Raises:
        FaceDataError: If the zip cannot be read.
    """

    def __init__(self, location: Path, *, depth: int) -> None:
        self.location = location
        self._archive: zipfile.ZipFile | None = None
        if location.is_dir():
            paths: Iterable[str] = (p.relative_to(location).as_posix() for p in location.rglob("*"))
        else:
            try:
                self._archive = zipfile.ZipFile(location)
            except zipfile.BadZipFile as error:
                raise FaceDataError(f"expected a readable zip at {location}, got: {error}; fetch it again") from error
            paths = self._archive.namelist()
        self._members: dict[str, str] = {}
        for member in sorted(paths):
            path = PurePosixPath(member)
            # Zips packed on a Mac carry "__MACOSX/._x.jpg": same suffix, no image.
            if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
                continue
            # Some mirrors ship every image twice; the first in sorted order stands for both.
            self._members.setdefault("/".join(path.parts[-depth:]), member)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __len__(self) -> int:
        return len(self._members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all images, in a fixed order."""
        return tuple(self._members)

    def read(self, name: str) -> bytes:
        """Return the encoded bytes of one image."""
        member = self._members[name]
        return self._archive.read(member) if self._archive else (self.location / member).read_bytes()

    def stamp(self, name: str) -> str:
        """Return a text that changes when the image's content changes (for cache keys)."""
        member = self._members[name]
        if self._archive:
            info = self._archive.getinfo(member)
            return f"{info.CRC:08x}-{info.file_size}"
        stat = (self.location / member).stat()
        return f"{stat.st_mtime_ns}-{stat.st_size}"

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive:
            self._archive.close()


def open_source(root: Path, candidates: Sequence[str], *, depth: int, hint: str) -> ImageSource:
    """Open the first candidate below ``root`` that exists and holds images.

    Args:
        root: The data set's folder.
        candidates: Folders or zips relative to ``root``, in order of preference; ``"."`` is ``root`` itself.
        depth: See :class:`ImageSource`.
        hint: Where the publisher offers the images, for the message.

    Raises:
        MissingFaceDataError: If no candidate holds an image.
    """
    for candidate in candidates:
        location = root / candidate
        if location.is_dir() or location.is_file():
            source = ImageSource(location, depth=depth)
            if len(source):
                return source
            source.__exit__(None, None, None)
    raise MissingFaceDataError(
        f"found no images below {root}: expected one of {', '.join(map(repr, candidates))} "
        f"(a folder or a zip with .jpg files). {hint}"
    )
