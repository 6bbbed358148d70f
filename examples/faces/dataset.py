"""A split of face images in memory: pixels, target and sensitive group, and batches of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import FaceDataError

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceSplit:
    """One split of a face data set.

    Attributes:
        name: Data set and split, e.g. ``"celeba/train"``.
        images: Pixels (N, 3, H, W), uint8.
        target: Class of each image (N,), int64 in [0, C).
        sensitive: Group of each image (N,), int64 in [0, G).
        class_names: The C classes.
        group_names: The G groups; a group may be empty in a split.
        skipped: Listed images that were absent, unreadable or without a usable label.
    """

    name: str
    images: Tensor
    target: Tensor
    sensitive: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    skipped: int = 0

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            came = f"{tuple(self.images.shape)} {self.images.dtype}"
            raise FaceDataError(f"{self.name}: images must be uint8 (N, 3, H, W), got {came}")
        labels = (("target", self.target, self.class_names), ("sensitive", self.sensitive, self.group_names))
        for field, values, names in labels:
            if values.dtype != torch.int64 or values.shape != self.images.shape[:1]:
                came = f"{tuple(values.shape)} {values.dtype}"
                raise FaceDataError(f"{self.name}: {field} must be int64 ({len(self)},), got {came}")
            if len(self) and not 0 <= int(values.min()) <= int(values.max()) < len(names):
                span = f"{int(values.min())}..{int(values.max())}"
                raise FaceDataError(f"{self.name}: {field} must lie in 0..{len(names) - 1}, got {span}")

    def __len__(self) -> int:
        return self.images.shape[0]

    def subset(self, index: Tensor) -> FaceSplit:
        """The images at some positions (B,), int64."""
        return dataclasses.replace(
            self, images=self.images[index], target=self.target[index], sensitive=self.sensitive[index]
        )

    def counts(self) -> Tensor:
        """Count the images of each group and class: (G, C), int64."""
        groups, classes = len(self.group_names), len(self.class_names)
        cells = self.sensitive * classes + self.target
        return torch.bincount(cells, minlength=groups * classes).view(groups, classes)

    def batch(self, index: Tensor | slice = slice(None)) -> Batch:
        """Return normalised images with their labels.

        Args:
            index: Positions (B,), int64, or a slice.

        Returns:
            x (B, 3, H, W) float32 in [-1, 1], y (B,) int64, s (B,) int64.
        """
        return self.images[index].float().div_(127.5).sub_(1.0), self.target[index], self.sensitive[index]

    def loader(
        self,
        *,
        batch_size: int,
        shuffle: bool = False,
        flip: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> FaceLoader:
        """Return an iterable of batches; see :class:`FaceLoader`."""
        return FaceLoader(
            self, batch_size=batch_size, shuffle=shuffle, flip=flip, drop_last=drop_last, generator=generator
        )


class FaceLoader:
    """Batches of a split from memory; each iteration is one epoch.

    Args:
        split: The images.
        batch_size: Images per batch.
        shuffle: Draw a new order for every epoch.
        flip: Mirror each image with probability 1/2 (training only).
        drop_last: Leave out an incomplete last batch.
        generator: CPU generator of order and flips; None uses torch's global one.
    """

    def __init__(
        self,
        split: FaceSplit,
        *,
        batch_size: int,
        shuffle: bool = False,
        flip: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.flip = flip
        self.drop_last = drop_last
        self.generator = generator

    def __len__(self) -> int:
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        total = len(self.split)
        order = torch.randperm(total, generator=self.generator) if self.shuffle else torch.arange(total)
        for number in range(len(self)):
            index = order[number * self.batch_size : (number + 1) * self.batch_size]
            x, y, s = self.split.batch(index)
            if self.flip:
                mirrored = torch.rand(len(index), generator=self.generator) < 0.5
                x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
            yield x, y, s

    def fold(self, k: int, i: int) -> tuple[FaceLoader, FaceLoader]:
        """Batches without, and of, the i-th of k parts; the parts are fixed."""
        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(0))
        part = torch.arange(len(order)) % k == i
        rest, held_out = self.split.subset(order[~part]), self.split.subset(order[part])
        training = rest.loader(
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            flip=self.flip,
            drop_last=self.drop_last,
            generator=self.generator,
        )
        return training, held_out.loader(batch_size=self.batch_size)
