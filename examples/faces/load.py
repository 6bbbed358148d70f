"""One call for every face data set."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from . import celeba, fairface, lfw, utkface
from .dataset import FaceSplit
from .errors import unknown


class FaceDatasetLoader(Protocol):
    """What each data set's module offers."""

    def __call__(
        self,
        root: str | Path,
        *,
        target: str,
        sensitive: str,
        size: int,
        limit: int | None,
        cache: str | Path | None,
    ) -> dict[str, FaceSplit]:
        """Load train, val and test."""
        ...


class _Entry(NamedTuple):
    load: FaceDatasetLoader
    marks: tuple[str, ...]  # a root that holds one of these is the data set's own folder


DATASETS: dict[str, _Entry] = {
    "celeba": _Entry(celeba.load_celeba, (celeba.ATTRIBUTES_FILE,)),
    "fairface": _Entry(fairface.load_fairface, (fairface.TRAIN_FILE,)),
    "utkface": _Entry(utkface.load_utkface, tuple(name for name in utkface.IMAGES if name != ".")),
    "lfw": _Entry(lfw.load_lfw, (lfw.ATTRIBUTES_FILE,)),
}


def load_faces(
    dataset: str,
    root: str | Path,
    *,
    target: str,
    sensitive: str,
    size: int = 32,
    limit: int | None = None,
    cache: str | Path | None = None,
) -> dict[str, FaceSplit]:
    """Load the splits of a face data set.

    Args:
        dataset: ``"celeba"``, ``"fairface"``, ``"utkface"`` or ``"lfw"``.
        root: The data set's folder, or a folder that holds it under the data set's name.
        target: What to predict; the choices are the data set's.
        sensitive: What makes the groups; the choices are the data set's.
        size: Side H = W in pixels.
        limit: Largest number of images per split (a deterministic subsample).
        cache: Folder outside the repository in which decoded pixels are kept; None keeps nothing on disk.

    Returns:
        ``{"train": ..., "val": ..., "test": ...}``.

    Raises:
        UnknownChoiceError: If the data set, target or sensitive attribute does not exist.
        MissingFaceDataError: If a file of the publisher's layout is absent.
        FaceDataError: If a file is not in the publisher's format.
    """
    if dataset not in DATASETS:
        raise unknown("face data set", dataset, DATASETS)
    entry, folder = DATASETS[dataset], Path(root)
    if not any((folder / mark).exists() for mark in entry.marks) and (folder / dataset).is_dir():
        folder = folder / dataset
    return entry.load(folder, target=target, sensitive=sensitive, size=size, limit=limit, cache=cache)
