"""The CelebA loader on generated images in the publisher's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from face_files import WriteImages, jpeg, write_folder

from faces import FaceDataError, MissingFaceDataError, UnknownChoiceError, load_faces
from faces.celeba import load_celeba

FILES = [f"{number:06d}.jpg" for number in range(1, 31)]


def write_lists(root: Path, files: list[str]) -> None:
    # Smiling alternates, Male is every third; trailing blank and double blanks as published.
    rows = [f"{f} {1 if int(f[:6]) % 2 else -1:2d} {1 if int(f[:6]) % 3 == 0 else -1:2d}" for f in files]
    text = "\n".join([str(len(files)), "Smiling Male ", *rows]) + "\n"
    (root / "list_attr_celeba.txt").write_text(text)
    (root / "list_eval_partition.txt").write_text("".join(f"{f} {int(f[:6]) % 3}\n" for f in files))


def test_labels_and_partition_follow_the_lists(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path / "img_align_celeba", FILES)
    write_lists(tmp_path, FILES)
    splits = load_celeba(tmp_path, target="Smiling", sensitive="Male", size=8)
    assert {name: len(split) for name, split in splits.items()} == {"train": 10, "val": 10, "test": 10}
    train = splits["train"]  # the files 3, 6, 9, ...: all Male, Smiling where odd
    assert train.images.shape == (10, 3, 8, 8)
    assert train.target.tolist() == [1, 0] * 5
    assert train.sensitive.tolist() == [1] * 10
    assert train.class_names == ("not Smiling", "Smiling")
    assert train.group_names == ("not Male", "Male")
    assert train.skipped == 0


def test_lists_may_cover_a_subset_of_the_images(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path / "img_align_celeba", FILES)
    write_lists(tmp_path, FILES[:12])
    splits = load_celeba(tmp_path, size=4)
    assert sum(len(split) for split in splits.values()) == 12
    assert sum(split.skipped for split in splits.values()) == 0


def test_listed_images_that_are_absent_are_counted(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path / "img_align_celeba", FILES[:21])
    write_lists(tmp_path, FILES)
    splits = load_celeba(tmp_path, size=4)
    assert {name: (len(split), split.skipped) for name, split in splits.items()} == dict.fromkeys(splits, (7, 3))


def test_unreadable_image_is_counted(tmp_path: Path) -> None:
    write_folder(tmp_path / "img_align_celeba", FILES)
    (tmp_path / "img_align_celeba" / "000003.jpg").write_bytes(jpeg(2)[:200])
    write_lists(tmp_path, FILES)
    train = load_celeba(tmp_path, size=4)["train"]
    assert (len(train), train.skipped) == (9, 1)
    assert train.target.tolist() == [0, 1] * 4 + [0]


def test_limit_is_deterministic_and_nested(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path / "img_align_celeba", FILES)
    write_lists(tmp_path, FILES)
    five = load_celeba(tmp_path, size=4, limit=5)["train"]
    again = load_celeba(tmp_path, size=4, limit=5)["train"]
    three = load_celeba(tmp_path, size=4, limit=3)["train"]
    assert len(five) == 5
    assert torch.equal(five.images, again.images)
    pool = {image.numpy().tobytes() for image in five.images}
    assert all(image.numpy().tobytes() in pool for image in three.images)


def test_rows_outside_the_partition_are_counted(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path / "img_align_celeba", FILES)
    write_lists(tmp_path, FILES)
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{f} {int(f[:6]) % 3}\n" for f in FILES[:27]))
    splits = load_celeba(tmp_path, size=4)
    assert sum(len(split) for split in splits.values()) == 27
    assert splits["train"].skipped == 3


@pytest.mark.parametrize("absent", ["list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"])
def test_missing_file_is_named(tmp_path: Path, absent: str, write_images: WriteImages) -> None:
    write_lists(tmp_path, FILES)
    if absent == "img_align_celeba":
        with pytest.raises(MissingFaceDataError, match=r"img_align_celeba.*zip"):
            load_celeba(tmp_path)
        return
    write_images(tmp_path / "img_align_celeba", FILES)
    (tmp_path / absent).unlink()
    with pytest.raises(MissingFaceDataError, match=f"{absent}.*Point root"):
        load_celeba(tmp_path)


@pytest.mark.parametrize(("target", "sensitive"), [("Smilling", "Male"), ("Smiling", "Smilling")])
def test_unknown_attribute_lists_the_choices(tmp_path: Path, target: str, sensitive: str) -> None:
    write_lists(tmp_path, FILES)
    with pytest.raises(UnknownChoiceError, match="'Smilling': expected one of 'Smiling', 'Male'"):
        load_faces("celeba", tmp_path, target=target, sensitive=sensitive)


def test_short_row_is_reported_with_its_line(tmp_path: Path) -> None:
    write_lists(tmp_path, FILES)
    with (tmp_path / "list_attr_celeba.txt").open("a") as stream:
        stream.write("000031.jpg 1\n")
    with pytest.raises(FaceDataError, match="line 33: expected a file and 2 values"):
        load_celeba(tmp_path)
