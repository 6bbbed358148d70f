"""Splits, batches, the dispatcher, the cache and the image sources."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from face_files import WriteImages, jpeg

from faces import FaceDataError, FaceSplit, UnknownChoiceError, load_faces
from faces.hashing import split_of, subsample, unit_hash
from faces.images import decode, load_images
from faces.source import ImageSource


def make_split(count: int = 10) -> FaceSplit:
    images = torch.arange(count * 12).remainder(256).to(torch.uint8).view(count, 3, 2, 2)
    return FaceSplit(
        name="toy/train",
        images=images,
        target=torch.arange(count) % 2,
        sensitive=torch.arange(count) % 3,
        class_names=("no", "yes"),
        group_names=("a", "b", "c"),
    )


def test_batch_is_normalised() -> None:
    split = make_split()
    x, y, s = split.batch(torch.tensor([3, 1]))
    assert (x.dtype, y.dtype, s.dtype) == (torch.float32, torch.int64, torch.int64)
    torch.testing.assert_close(x, split.images[[3, 1]].float() / 127.5 - 1)
    assert y.tolist() == [1, 1]
    assert s.tolist() == [0, 1]


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_loader_batches(drop_last: bool, sizes: list[int]) -> None:
    loader = make_split().loader(batch_size=4, drop_last=drop_last)
    assert [len(y) for _, y, _ in loader] == sizes
    assert len(loader) == len(sizes)


def test_shuffle_is_a_seeded_permutation_that_changes_with_the_epoch() -> None:
    def epochs() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        loader = make_split(50).loader(batch_size=7, shuffle=True, generator=generator)
        return [torch.cat([x[:, 0, 0, 0] for x, _, _ in loader]) for _ in range(2)]

    first, second = epochs()
    torch.testing.assert_close(torch.stack([first, second]), torch.stack(epochs()))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_flip_mirrors_some_images_and_keeps_the_rest() -> None:
    split = make_split(60)
    x, _, _ = next(iter(split.loader(batch_size=60, flip=True, generator=torch.Generator().manual_seed(0))))
    plain = split.batch()[0]
    mirrored = (x == plain.flip(-1)).flatten(1).all(1)
    assert 10 < int(mirrored.sum()) < 50
    assert torch.equal(x[~mirrored], plain[~mirrored])


def test_split_rejects_labels_out_of_range() -> None:
    split = make_split()
    with pytest.raises(FaceDataError, match=r"target must lie in 0\.\.0, got 0\.\.1"):
        FaceSplit(**{**vars(split), "class_names": ("only",)})
    with pytest.raises(FaceDataError, match=r"sensitive must be int64 \(10,\), got \(9,\)"):
        FaceSplit(**{**vars(split), "sensitive": split.sensitive[:9]})
    with pytest.raises(FaceDataError, match="images must be uint8"):
        FaceSplit(**{**vars(split), "images": split.images.float()})


def test_unknown_data_set_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UnknownChoiceError, match="'celebA': expected one of 'celeba', 'fairface'"):
        load_faces("celebA", tmp_path, target="Smiling", sensitive="Male")


def test_dispatcher_finds_the_folder_of_the_data_set(tmp_path: Path, write_images: WriteImages) -> None:
    names = [f"{20 + n}_{n % 2}_{n % 5}_{n:017d}.jpg" for n in range(50)]
    write_images(tmp_path / "utkface" / "UTKFace", names)
    above, itself = (
        load_faces("utkface", root, target="gender", sensitive="race", size=4)
        for root in (tmp_path, tmp_path / "utkface")
    )
    assert torch.equal(above["test"].images, itself["test"].images)


def test_decode_shrinks_by_block_means_and_squeezes_the_aspect() -> None:
    data = jpeg(0, width=32, height=64)
    full = decode(data, size=64)
    assert full.shape == (3, 64, 64)
    small, larger = decode(data, size=8), decode(jpeg(1, width=16, height=16), size=16)
    assert small.dtype == np.uint8
    block = larger.reshape(3, 8, 2, 8, 2).mean(axis=(2, 4))
    half = decode(jpeg(1, width=16, height=16), size=8)
    # Pillow rounds once for each direction.
    assert np.abs(half - block).max() <= 1.0


def test_cache_is_used_keyed_by_content_and_kept_out_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "in" / "1.jpg").write_bytes(b"no image")
    cache = tmp_path / "cache"
    with ImageSource(tmp_path / "in", depth=1) as source:
        fresh, kept = load_images(source, source.names, size=4, cache=cache)
        cached, again = load_images(source, source.names, size=4, cache=cache)
        assert kept == again == [0, 2]
        assert np.array_equal(fresh, cached)
        assert len(list(cache.iterdir())) == 1
        (tmp_path / "in" / "0.jpg").write_bytes(jpeg(9, width=25))
        changed, _ = load_images(source, source.names, size=4, cache=cache)
        assert not np.array_equal(fresh, changed)
        with pytest.raises(FaceDataError, match="outside the repository"):
            load_images(source, source.names, size=4, cache=Path(__file__).parent / "cache")


def test_zip_ignores_what_a_mac_adds_and_a_broken_zip_is_explained(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.jpg", jpeg(1))
        archive.writestr("__MACOSX/x/._1.jpg", b"resource fork")
    with ImageSource(tmp_path / "a.zip", depth=1) as source:
        assert source.names == ("1.jpg",)
    (tmp_path / "b.zip").write_bytes(b"half a download")
    with pytest.raises(FaceDataError, match="readable zip"):
        ImageSource(tmp_path / "b.zip", depth=1)


def test_hash_split_has_the_asked_shares_and_subsample_rejects_zero() -> None:
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    dealt = [split_of(str(n), fractions=fractions, salt="t") for n in range(4000)]
    for name, share in fractions.items():
        assert abs(dealt.count(name) / 4000 - share) < 0.03
    assert all(0 <= unit_hash(str(n), salt="t") < 1 for n in range(100))
    assert unit_hash("a", salt="x") != unit_hash("a", salt="y")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        subsample(["a"], 0)
