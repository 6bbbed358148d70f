"""CelebA (Liu et al., ICCV 2015): aligned faces with 40 binary attributes and the publisher's partition."""

from __future__ import annotations

from pathlib import Path

from .assemble import Record, assemble
from .dataset import FaceSplit
from .errors import FaceDataError, require_file, unknown
from .source import open_source

ATTRIBUTES_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
_IMAGES = ("img_align_celeba", "img_align_celeba.zip")
_SPLITS = {"0": "train", "1": "val", "2": "test"}
_HINT = "CelebA offers 'img_align_celeba.zip' under 'Align&Cropped Images'."


def load_celeba(
    root: str | Path,
    *,
    target: str = "Smiling",
    sensitive: str = "Male",
    size: int = 32,
    limit: int | None = None,
    cache: str | Path | None = None,
) -> dict[str, FaceSplit]:
    """Load train, val and test as the publisher cut them (disjoint in identities).

    Args:
        root: Folder with the images (folder or zip), ``list_attr_celeba.txt`` and
            ``list_eval_partition.txt``. The lists or the images may be a subset of CelebA.
        target: Attribute to predict; class 1 is "present".
        sensitive: Attribute that makes the two groups; group 1 is "present".
        size: Side H = W in pixels.
        limit: Largest number of images per split.
        cache: Folder outside the repository for decoded pixels.

    Raises:
        MissingFaceDataError: If a file of the layout is absent.
        UnknownChoiceError: If an attribute is not in the header.
        FaceDataError: If a list is not in the publisher's format.
    """
    folder = Path(root)
    files, targets, groups = _read_attributes(folder / ATTRIBUTES_FILE, target, sensitive)
    splits = _read_partition(folder / PARTITION_FILE)
    records: dict[str, list[Record]] = {name: [] for name in _SPLITS.values()}
    unplaced = 0
    for row in map(Record, files, targets, groups):
        if row.file in splits:
            records[splits[row.file]].append(row)
        else:
            unplaced += 1
    if unplaced == len(files):
        raise FaceDataError(
            f"expected {PARTITION_FILE} to place the images of {ATTRIBUTES_FILE}, but it holds none of the "
            f"{len(files)}; fetch both from CelebA"
        )
    with open_source(folder, _IMAGES, depth=1, hint=_HINT) as source:
        return {
            name: assemble(
                source,
                rows,
                name=f"celeba/{name}",
                class_names=(f"not {target}", target),
                group_names=(f"not {sensitive}", sensitive),
                size=size,
                limit=limit,
                # Without a partition the split is unknown; counted once, where most images are.
                skipped=unplaced if name == "train" else 0,
                cache=None if cache is None else Path(cache),
            )
            for name, rows in records.items()
        }


def _read_attributes(path: Path, target: str, sensitive: str) -> tuple[list[str], list[int], list[int]]:
    lines = require_file(path, "CelebA's attribute list").read_text(encoding="utf-8").splitlines()
    attributes = lines[1].split() if len(lines) > 1 else []
    if not attributes or not lines[0].strip().isdigit():
        raise FaceDataError(f"{path.name}: expected a count and a line of attribute names, got {lines[:1]}")
    for attribute in (target, sensitive):
        if attribute not in attributes:
            raise unknown("CelebA attribute", attribute, attributes)
    columns = [1 + attributes.index(attribute) for attribute in (target, sensitive)]
    files: list[str] = []
    labels: tuple[list[int], list[int]] = ([], [])
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 1 + len(attributes):
            raise FaceDataError(
                f"{path.name}, line {number}: expected a file and {len(attributes)} values, "
                f"got {len(cells)} cells; fetch the list again"
            )
        files.append(cells[0])
        for values, column in zip(labels, columns, strict=True):
            values.append(int(cells[column] == "1"))
    return files, *labels


def _read_partition(path: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    text = require_file(path, "CelebA's partition (train 0, val 1, test 2)").read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2 or cells[1] not in _SPLITS:
            raise FaceDataError(f"{path.name}, line {number}: expected a file and 0, 1 or 2, got {line!r}")
        splits[cells[0]] = _SPLITS[cells[1]]
    return splits
