"""LFW (Huang et al., 2007) with the attribute scores of Kumar et al. (ICCV 2009).

The scores come from classifiers, not from people: a positive score means "present". A hash of the name deals
70 % of the persons to train, 10 % to val and 20 % to test, so no identity is in two splits.
"""

from __future__ import annotations

from pathlib import Path

from .assemble import Record, assemble
from .dataset import FaceSplit
from .errors import FaceDataError, require_file, unknown
from .hashing import split_of
from .source import open_source

ATTRIBUTES_FILE = "lfw_attributes.txt"
_FOLDERS = ("lfw", "lfw_funneled", "lfw-funneled", "lfw-deepfunneled")
_IMAGES = (*_FOLDERS, *(f"{folder}.zip" for folder in _FOLDERS), ".")
_HINT = "LFW offers 'lfw.tgz' with one folder per person; unpack it or repack it as a zip."
_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def load_lfw(
    root: str | Path,
    *,
    target: str = "Smiling",
    sensitive: str = "Male",
    size: int = 32,
    limit: int | None = None,
    crop: float = 0.6,
    cache: str | Path | None = None,
) -> dict[str, FaceSplit]:
    """Load train, val and test, disjoint in persons.

    Args:
        root: Folder with ``lfw_attributes.txt`` and the images (``lfw/<person>/<person>_0001.jpg`` or a zip).
        target: Attribute to predict; class 1 is "present". ``"Wavy_Hair"`` finds "Wavy Hair".
        sensitive: Attribute that makes the two groups; group 1 is "present".
        size: Side H = W in pixels.
        limit: Largest number of images per split.
        crop: Share of each side kept around the centre: the face fills less than half of the originals.
        cache: Folder outside the repository for decoded pixels.

    Raises:
        MissingFaceDataError: If a file of the layout is absent.
        UnknownChoiceError: If an attribute is not in the header.
        FaceDataError: If the attribute file is not in the publisher's format.
    """
    folder = Path(root)
    records: dict[str, list[Record]] = {name: [] for name in _FRACTIONS}
    for person, record in _read_attributes(folder / ATTRIBUTES_FILE, target, sensitive):
        records[split_of(person, fractions=_FRACTIONS, salt="lfw")].append(record)
    with open_source(folder, _IMAGES, depth=2, hint=_HINT) as source:
        return {
            name: assemble(
                source,
                rows,
                name=f"lfw/{name}",
                class_names=(f"not {target}", target),
                group_names=(f"not {sensitive}", sensitive),
                size=size,
                limit=limit,
                crop=crop,
                cache=None if cache is None else Path(cache),
            )
            for name, rows in records.items()
        }


def _read_attributes(path: Path, target: str, sensitive: str) -> list[tuple[str, Record]]:
    text = require_file(path, "the attribute scores of Kumar et al.").read_text(encoding="utf-8")
    lines = text.splitlines()
    # The file opens with a title that is a comment too, so the header is found by its columns.
    starts = [number for number, line in enumerate(lines) if line.startswith("#\tperson\timagenum\t")]
    if not starts:
        raise FaceDataError(
            f"{path.name}: expected a header '#<tab>person<tab>imagenum<tab>...', got {lines[:1]}; "
            "fetch 'lfw_attributes.txt' again"
        )
    header = lines[starts[0]].rstrip().split("\t")[1:]
    columns = []
    for attribute in (target, sensitive):
        spelled = attribute.replace("_", " ")
        if spelled not in header[2:]:
            raise unknown("LFW attribute", attribute, header[2:])
        columns.append(header.index(spelled))
    labelled = []
    for number, line in enumerate(lines[starts[0] + 1 :], start=starts[0] + 2):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.rstrip().split("\t")
        try:
            person, image = cells[0].replace(" ", "_"), int(cells[1])
            label, group = (int(float(cells[column]) > 0) for column in columns)
        except (IndexError, ValueError):
            raise FaceDataError(
                f"{path.name}, line {number}: expected person, imagenum and {len(header) - 2} scores, got {line[:60]!r}"
            ) from None
        labelled.append((person, Record(f"{person}/{person}_{image:04d}.jpg", label, group)))
    return labelled
