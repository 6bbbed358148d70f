"""The FairFace loader on generated images in the publisher's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from face_files import WriteImages, write_folder

from faces import FaceDataError, MissingFaceDataError, UnknownChoiceError
from faces.fairface import AGES, GENDERS, RACES, load_fairface

SIZES = {"train": 80, "val": 14}


def write_labels(root: Path) -> None:
    for part, count in SIZES.items():
        rows = [f"{part}/{n}.jpg,{AGES[n % 9]},{GENDERS[n % 2]},{RACES[n % 7]},FALSE" for n in range(1, count + 1)]
        (root / f"fairface_label_{part}.csv").write_text("\n".join(["file,age,gender,race,service_test", *rows]) + "\n")


@pytest.fixture
def root(tmp_path: Path, write_images: WriteImages) -> Path:
    names = [f"{part}/{n}.jpg" for part, count in SIZES.items() for n in range(1, count + 1)]
    write_images(tmp_path / "fairface", names)
    write_labels(tmp_path)
    return tmp_path


def test_publishers_val_is_test_and_val_comes_from_train(root: Path) -> None:
    splits = load_fairface(root, size=4)
    assert len(splits["test"]) == SIZES["val"]
    assert len(splits["train"]) + len(splits["val"]) == SIZES["train"]
    assert 1 <= len(splits["val"]) < 20
    pixels = [{image.numpy().tobytes() for image in split.images} for split in splits.values()]
    assert len(set.union(*pixels)) == sum(SIZES.values()), "a train image is in two splits"


@pytest.mark.parametrize(("target", "classes"), [("gender", 2), ("age", 9), ("race", 7)])
@pytest.mark.parametrize(("sensitive", "groups"), [("race", 7), ("gender", 2), ("race_x_gender", 14)])
def test_targets_and_groups(root: Path, target: str, classes: int, sensitive: str, groups: int) -> None:
    split = load_fairface(root, target=target, sensitive=sensitive, size=4)["test"]
    assert split.counts().shape == (groups, classes)
    label = {"gender": GENDERS, "age": AGES, "race": RACES}[target]
    for position, number in enumerate(range(1, SIZES["val"] + 1)):
        assert split.class_names[split.target[position]] == label[number % len(label)]
        group = split.group_names[split.sensitive[position]]
        race, gender = RACES[number % 7], GENDERS[number % 2]
        assert group == {"race": race, "gender": gender, "race_x_gender": f"{race} {gender}"}[sensitive]


def test_folders_may_lie_in_the_root_itself(tmp_path: Path) -> None:
    for part, count in SIZES.items():
        write_folder(tmp_path / part, [f"{n}.jpg" for n in range(1, count + 1)])
    write_labels(tmp_path)
    assert len(load_fairface(tmp_path, size=4)["test"]) == SIZES["val"]


def test_missing_labels_are_named(root: Path) -> None:
    (root / "fairface_label_val.csv").unlink()
    with pytest.raises(MissingFaceDataError, match=r"fairface_label_val\.csv"):
        load_fairface(root)


def test_missing_images_are_explained(tmp_path: Path) -> None:
    write_labels(tmp_path)
    with pytest.raises(MissingFaceDataError, match=r"fairface\.zip"):
        load_fairface(tmp_path)


@pytest.mark.parametrize(("target", "sensitive"), [("smiling", "race"), ("gender", "smiling")])
def test_unknown_attribute_lists_the_choices(tmp_path: Path, target: str, sensitive: str) -> None:
    with pytest.raises(UnknownChoiceError, match=r"'smiling': expected one of .*'race'"):
        load_fairface(tmp_path, target=target, sensitive=sensitive)


def test_unknown_label_and_missing_column_are_reported(root: Path) -> None:
    labels = root / "fairface_label_val.csv"
    published = labels.read_text()
    labels.write_text(published.replace("Southeast Asian", "Martian"))
    with pytest.raises(UnknownChoiceError, match=r"race of val/.*'Martian'"):
        load_fairface(root)
    labels.write_text(published.replace("race,service_test", "service_test", 1))
    with pytest.raises(FaceDataError, match="missing"):
        load_fairface(root)
