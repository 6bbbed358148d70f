"""The UTKFace loader: labels in file names, some of them malformed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from face_files import WriteImages

from faces import MissingFaceDataError, UnknownChoiceError, load_faces
from faces.utkface import GENDERS, RACES, load_utkface

GOOD = [f"{10 + n}_{n % 2}_{n % 5}_201701{n:011d}.jpg{'.chip.jpg' if n % 3 else ''}" for n in range(80)]
# Race missing, gender out of range, nothing but a date, empty race.
MALFORMED = [
    "61_1_20170109142408075.jpg",
    "53_3_0_20170119.jpg",
    "20170109142408075.jpg",
    "24_0__20170116.jpg",
]


@pytest.fixture
def root(tmp_path: Path, write_images: WriteImages) -> Path:
    write_images(tmp_path / "UTKFace", [*GOOD, *MALFORMED])
    return tmp_path


def test_malformed_names_are_skipped_and_counted(root: Path) -> None:
    splits = load_utkface(root, size=4)
    assert sum(len(split) for split in splits.values()) == len(GOOD)
    assert sum(split.skipped for split in splits.values()) == len(MALFORMED)
    assert len(splits["train"]) > len(splits["test"]) > len(splits["val"]) > 0


def test_labels_come_from_the_name(root: Path) -> None:
    gender = load_utkface(root, size=4)
    counts = torch.stack([split.counts() for split in gender.values()]).sum(0)
    assert counts.tolist() == [[8, 8]] * 5  # n % 2 and n % 5 are independent
    assert (gender["train"].class_names, gender["train"].group_names) == (GENDERS, RACES)
    age = load_utkface(root, target="age>=40", sensitive="gender", size=4)
    counts = torch.stack([split.counts() for split in age.values()]).sum(0)
    assert counts.tolist() == [[15, 25], [15, 25]]
    assert age["test"].class_names == ("age<40", "age>=40")


def test_split_depends_on_the_name_alone(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path / "a" / "UTKFace", GOOD)
    write_images(tmp_path / "b" / "UTKFace", GOOD[:60])
    whole, part = load_utkface(tmp_path / "a", size=4), load_utkface(tmp_path / "b", size=4)
    for name, split in part.items():
        known = {image.numpy().tobytes() for image in whole[name].images}
        assert all(image.numpy().tobytes() in known for image in split.images)


def test_missing_images_are_explained(tmp_path: Path) -> None:
    with pytest.raises(MissingFaceDataError, match=r"UTKFace.*tar\.gz"):
        load_faces("utkface", tmp_path, target="gender", sensitive="race")


@pytest.mark.parametrize(("target", "sensitive"), [("age", "race"), ("age>40", "race"), ("gender", "age")])
def test_unknown_attribute_lists_the_choices(tmp_path: Path, target: str, sensitive: str) -> None:
    with pytest.raises(UnknownChoiceError, match=r"expected one of 'gender', 'age>=N|expected one of 'race'"):
        load_utkface(tmp_path, target=target, sensitive=sensitive)
