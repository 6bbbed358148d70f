"""Errors of the face examples: what was expected, what came, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class FaceDataError(ValueError):
    """Face data or labels that cannot be used as they are."""


class UnknownChoiceError(FaceDataError):
    """A name (data set, attribute, label) outside the listed choices."""


class MissingFaceDataError(FileNotFoundError):
    """A file or folder of the publisher's layout is absent."""


def unknown(kind: str, value: object, choices: Iterable[str]) -> UnknownChoiceError:
    """Build (not raise) the error for a name that is not among the choices.

    Args:
        kind: What the name stands for, e.g. ``"CelebA attribute"``.
        value: The name that came.
        choices: The names that would have been accepted.
    """
    listed = ", ".join(repr(choice) for choice in choices)
    return UnknownChoiceError(f"unknown {kind} {value!r}: expected one of {listed}")


def require_file(path: Path, what: str) -> Path:
    """Return ``path``, or explain which file of the publisher's layout is missing.

    Args:
        path: Where the file should be.
        what: What the file is and where it comes from, for the message.

    Raises:
        MissingFaceDataError: If ``path`` is not a file.
    """
    if path.is_file():
        return path
    around = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else None
    found = f"the folder holds {around[:8]}" if around is not None else "the folder does not exist"
    raise MissingFaceDataError(
        f"expected {what} at {path}; {found}. Point root at the folder in which the publisher's files lie."
    )
