"""The face loaders on the publishers' own files, where a machine has them.

The images may not be passed on, so they never lie in the repository: the tests look in ``shared/data`` beside
the checkout, or in the folder that ``FAIRPRUNE_DATA`` names, and are skipped when a data set is absent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

_HERE = Path(__file__).resolve()
_EXAMPLES = str(_HERE.parents[1] / "examples")
if _EXAMPLES not in sys.path:
    sys.path.insert(0, _EXAMPLES)

from faces import FaceSplit, ResNet10, evaluate, load_faces, train  # noqa: E402  (needs the path above)

DATA = Path(os.environ.get("FAIRPRUNE_DATA") or _HERE.parents[2] / "shared" / "data")
LIMIT = 300


def load(dataset: str, target: str, sensitive: str) -> dict[str, FaceSplit]:
    if not (DATA / dataset).is_dir():
        pytest.skip(f"no folder {dataset!r} in the data folder; set FAIRPRUNE_DATA to the folder that holds it")
    return load_faces(dataset, DATA, target=target, sensitive=sensitive, size=32, limit=LIMIT)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave the other cores of a shared machine alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("dataset", "target", "sensitive", "groups", "classes"),
    [
        ("celeba", "Smiling", "Male", 2, 2),
        ("fairface", "gender", "race", 7, 2),
        ("fairface", "age", "race_x_gender", 14, 9),
        ("utkface", "age>=40", "race", 5, 2),
        ("lfw", "Smiling", "Male", 2, 2),
    ],
)
def test_splits_are_filled_and_disjoint(dataset: str, target: str, sensitive: str, groups: int, classes: int) -> None:
    splits = load(dataset, target, sensitive)
    assert list(splits) == ["train", "val", "test"]
    for split in splits.values():
        assert 0 < len(split) <= LIMIT
        assert split.images.shape[1:] == (3, 32, 32)
        counts = split.counts()
        assert counts.shape == (groups, classes)
        assert (counts.sum(dim=1) > 0).all(), f"an empty group in {split.name}: {counts.tolist()}"
        # Decoded photographs, neither blank nor noise: neighbours resemble each other.
        x, _, _ = split.batch()
        assert x.std() > 0.2
        assert (x[..., 1:] - x[..., :-1]).abs().mean() < 0.5 * x.std()
    pixels = [{image.numpy().tobytes() for image in split.images} for split in splits.values()]
    assert not pixels[0] & pixels[1] | pixels[0] & pixels[2] | pixels[1] & pixels[2]


def test_a_few_steps_learn_to_see_a_smile() -> None:
    splits = load("celeba", "Smiling", "Male")
    torch.manual_seed(0)
    model = ResNet10(width=4)
    losses = train(model, splits["train"], epochs=6, batch_size=32, lr=0.05, seed=0)
    assert losses[-1] < losses[0]
    assert evaluate(model, splits["train"]).accuracy > 0.6
