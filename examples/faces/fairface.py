"""FairFace (Karkkainen & Joo, WACV 2021): faces balanced over seven races, with gender and nine age bins.

The publisher offers two parts, "train" and "val". Published numbers are on "val", so it is our test split;
our val split is a tenth of "train", chosen by a hash of the file name and hence the same for everybody.
"""

from __future__ import annotations

import csv
from pathlib import Path

from .assemble import Record, assemble
from .dataset import FaceSplit
from .errors import FaceDataError, require_file, unknown
from .hashing import split_of
from .source import open_source

TRAIN_FILE = "fairface_label_train.csv"
TEST_FILE = "fairface_label_val.csv"
_IMAGES = (
    "fairface.zip",
    "fairface-img-margin025-trainval.zip",
    "fairface-img-margin125-trainval.zip",
    "fairface",
    "fairface-img-margin025-trainval",
    "fairface-img-margin125-trainval",
    ".",
)
_HINT = "FairFace offers 'fairface-img-margin025-trainval.zip' with train/*.jpg and val/*.jpg."

GENDERS = ("Female", "Male")
RACES = ("Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White")
AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
LABELS = {"gender": GENDERS, "age": AGES, "race": RACES}
GROUPS = {
    "race": RACES,
    "gender": GENDERS,
    "race_x_gender": tuple(f"{race} {gender}" for race in RACES for gender in GENDERS),
}


def load_fairface(
    root: str | Path,
    *,
    target: str = "gender",
    sensitive: str = "race",
    size: int = 32,
    limit: int | None = None,
    cache: str | Path | None = None,
) -> dict[str, FaceSplit]:
    """Load train (90 % of the publisher's train), val (its other 10 %) and test (the publisher's val).

    Args:
        root: Folder with the images (``train/`` and ``val/``, or a zip of them) and both label files.
        target: ``"gender"`` (2 classes), ``"age"`` (9) or ``"race"`` (7).
        sensitive: ``"race"`` (7 groups), ``"gender"`` (2) or ``"race_x_gender"`` (14).
        size: Side H = W in pixels.
        limit: Largest number of images per split.
        cache: Folder outside the repository for decoded pixels.

    Raises:
        MissingFaceDataError: If a file of the layout is absent.
        UnknownChoiceError: If target, sensitive or a label is none of the published ones.
        FaceDataError: If a label file lacks a column.
    """
    if target not in LABELS:
        raise unknown("FairFace target", target, LABELS)
    if sensitive not in GROUPS:
        raise unknown("FairFace sensitive attribute", sensitive, GROUPS)
    folder = Path(root)
    records: dict[str, list[Record]] = {"train": [], "val": []}
    for record in _read_labels(folder / TRAIN_FILE, target, sensitive):
        records[split_of(record.file, fractions={"val": 0.1, "train": 0.9}, salt="fairface")].append(record)
    records["test"] = _read_labels(folder / TEST_FILE, target, sensitive)
    with open_source(folder, _IMAGES, depth=2, hint=_HINT) as source:
        return {
            name: assemble(
                source,
                rows,
                name=f"fairface/{name}",
                class_names=LABELS[target],
                group_names=GROUPS[sensitive],
                size=size,
                limit=limit,
                cache=None if cache is None else Path(cache),
            )
            for name, rows in records.items()
        }


def _read_labels(path: Path, target: str, sensitive: str) -> list[Record]:
    require_file(path, "FairFace's label file")
    records = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        missing = {"file", *LABELS} - set(rows.fieldnames or ())
        if missing:
            raise FaceDataError(
                f"{path.name}: expected the columns file, age, gender, race; missing {sorted(missing)}; "
                "fetch the file again"
            )
        for row in rows:
            label = _position(row, target)
            if sensitive == "race_x_gender":
                group = _position(row, "race") * len(GENDERS) + _position(row, "gender")
            else:
                group = _position(row, sensitive)
            records.append(Record(row["file"], label, group))
    return records


def _position(row: dict[str, str], field: str) -> int:
    try:
        return LABELS[field].index(row[field])
    except ValueError:
        raise unknown(f"FairFace {field} of {row['file']}", row[field], LABELS[field]) from None
