"""The LFW loader: a folder per person, scores of Kumar et al., splits by person."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from face_files import WriteImages

from faces import FaceDataError, MissingFaceDataError, UnknownChoiceError
from faces.lfw import load_lfw

# Blanks as in the score file, underscores in the file names; the accent must survive folder and zip.
PEOPLE = [f"José Person {number}" for number in range(40)]
HEADER = "#\tperson\timagenum\tMale\tSmiling\tWavy Hair"


def write_scores(root: Path, *, extra: str = "") -> None:
    rows = [
        f"{person}\t{image}\t{1.5 if number % 2 else -0.25}\t{0.5 if image == 1 else -2}\t{-1e-3}"
        for number, person in enumerate(PEOPLE)
        for image in (1, 2)
    ]
    text = "\n".join(["#lfw_attributes.txt\tcolor", HEADER, *rows]) + "\n" + extra
    (root / "lfw_attributes.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path, write_images: WriteImages) -> Path:
    folders = [person.replace(" ", "_") for person in PEOPLE]
    write_images(tmp_path / "lfw", [f"{f}/{f}_{image:04d}.jpg" for f in folders for image in (1, 2)])
    write_scores(tmp_path)
    return tmp_path


def test_positive_scores_are_present(root: Path) -> None:
    splits = load_lfw(root, size=6)
    assert torch.stack([split.counts() for split in splits.values()]).sum(0).tolist() == [[20, 20], [20, 20]]
    wavy = load_lfw(root, target="Wavy_Hair", size=6)["train"]
    assert wavy.target.sum() == 0
    assert splits["train"].images.shape[1:] == (3, 6, 6)


def test_no_person_is_in_two_splits(root: Path) -> None:
    splits = load_lfw(root, size=6)
    for split in splits.values():
        # Both images of a person, one smiling and one not, come along.
        assert len(split) % 2 == 0
        assert int(split.target.sum()) == len(split) // 2
    assert len(splits["train"]) > len(splits["test"])


def test_crop_keeps_the_centre(root: Path) -> None:
    whole, centre = (load_lfw(root, size=6, crop=crop)["train"] for crop in (1.0, 0.5))
    assert not whole.images.equal(centre.images)


def test_listed_images_that_are_absent_are_counted(root: Path) -> None:
    write_scores(root, extra="Nobody Here\t1\t1.0\t1.0\t1.0\n")
    assert sum(split.skipped for split in load_lfw(root, size=6).values()) == 1


def test_missing_scores_are_named(root: Path) -> None:
    (root / "lfw_attributes.txt").unlink()
    with pytest.raises(MissingFaceDataError, match=r"Kumar.*lfw_attributes\.txt"):
        load_lfw(root)


def test_missing_images_are_explained(tmp_path: Path) -> None:
    write_scores(tmp_path)
    with pytest.raises(MissingFaceDataError, match=r"lfw\.tgz"):
        load_lfw(tmp_path)


def test_unknown_attribute_lists_the_choices(root: Path) -> None:
    with pytest.raises(UnknownChoiceError, match="'Tall': expected one of 'Male', 'Smiling', 'Wavy Hair'"):
        load_lfw(root, target="Tall")


@pytest.mark.parametrize("text", ["person\timagenum\n", f"{HEADER}\nA B\tone\t1\t1\t1\n", f"{HEADER}\nA B\t1\n"])
def test_other_formats_are_refused(root: Path, text: str) -> None:
    (root / "lfw_attributes.txt").write_text(text)
    with pytest.raises(FaceDataError, match="expected"):
        load_lfw(root)
