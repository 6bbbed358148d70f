"""UTKFace (Zhang et al., CVPR 2017): faces whose age, gender and race are written in the file name.

There is no published partition: a hash of the file name deals 70 % to train, 10 % to val and 20 % to test.
Identities are not published either, so one person may occur in two splits.
"""

from __future__ import annotations

import re
from pathlib import Path

from .assemble import Record, assemble
from .dataset import FaceSplit
from .errors import unknown
from .hashing import split_of
from .source import open_source

IMAGES = (
    "UTKFace",
    "UTKFace.zip",
    "utkface_aligned_cropped",
    "utkface_aligned_cropped.zip",
    "crop_part1",
    ".",
)
_HINT = "UTKFace offers 'UTKFace.tar.gz' under 'Aligned&Cropped Faces'; unpack it or repack it as a zip."
_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}

GENDERS = ("Male", "Female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
# A few published names lack a field; a looser pattern would read their date as a race.
_NAME = re.compile(r"(?P<age>\d{1,3})_(?P<gender>[01])_(?P<race>[0-4])_\d+\.jpg(\.chip\.jpg)?", re.IGNORECASE)
_AGE_TARGET = re.compile(r"age>=(\d{1,3})")


def load_utkface(
    root: str | Path,
    *,
    target: str = "gender",
    sensitive: str = "race",
    size: int = 32,
    limit: int | None = None,
    cache: str | Path | None = None,
) -> dict[str, FaceSplit]:
    """Load train, val and test.

    Args:
        root: Folder with the images (``UTKFace/``, a zip, or the images themselves).
        target: ``"gender"`` (class 1 is Female) or ``"age>=N"`` with N in years, e.g. ``"age>=40"``.
        sensitive: ``"race"`` (5 groups) or ``"gender"`` (2 groups).
        size: Side H = W in pixels.
        limit: Largest number of images per split.
        cache: Folder outside the repository for decoded pixels.

    Returns:
        The splits; ``skipped`` counts the names of each that do not follow the publisher's pattern.

    Raises:
        MissingFaceDataError: If no images are found.
        UnknownChoiceError: If target or sensitive is none of the above.
    """
    aged = _AGE_TARGET.fullmatch(target)
    if target != "gender" and not aged:
        raise unknown("UTKFace target", target, ("gender", "age>=N, e.g. age>=40"))
    if sensitive not in ("race", "gender"):
        raise unknown("UTKFace sensitive attribute", sensitive, ("race", "gender"))
    records: dict[str, list[Record]] = {name: [] for name in _FRACTIONS}
    malformed = dict.fromkeys(_FRACTIONS, 0)
    with open_source(Path(root), IMAGES, depth=1, hint=_HINT) as source:
        for file in source.names:
            split = split_of(file, fractions=_FRACTIONS, salt="utkface")
            match = _NAME.fullmatch(file)
            if match is None:
                malformed[split] += 1
                continue
            label = int(int(match["age"]) >= int(aged[1])) if aged else int(match["gender"])
            records[split].append(Record(file, label, int(match[sensitive])))
        return {
            name: assemble(
                source,
                rows,
                name=f"utkface/{name}",
                class_names=(f"age<{aged[1]}", target) if aged else GENDERS,
                group_names=RACES if sensitive == "race" else GENDERS,
                size=size,
                limit=limit,
                skipped=malformed[name],
                cache=None if cache is None else Path(cache),
            )
            for name, rows in records.items()
        }
