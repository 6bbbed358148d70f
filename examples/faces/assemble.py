"""From labelled file names to a :class:`FaceSplit`: what every loader shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from .dataset import FaceSplit
from .errors import FaceDataError
from .hashing import subsample
from .images import load_images
from .source import ImageSource


class Record(NamedTuple):
    """A labelled image: name in the source, class and group."""

    file: str
    target: int
    group: int


def assemble(
    source: ImageSource,
    records: Sequence[Record],
    *,
    name: str,
    class_names: tuple[str, ...],
    group_names: tuple[str, ...],
    size: int,
    limit: int | None = None,
    skipped: int = 0,
    crop: float = 1.0,
    cache: Path | None = None,
) -> FaceSplit:
    """Load the images of the records that exist.

    Args:
        source: Where the images lie.
        records: Labels of the split, any of whose files may be absent.
        name: Data set and split, for messages.
        class_names: The C classes.
        group_names: The G groups.
        size: Side H = W in pixels.
        limit: Largest number of images; chosen among those that exist.
        skipped: Images that the loader itself has already left out.
        crop: Share of each side kept around the centre.
        cache: See :func:`faces.images.load_images`.

    Raises:
        FaceDataError: If no image is left.
    """
    present = [record for record in records if record.file in source]
    skipped += len(records) - len(present)
    chosen = [present[index] for index in subsample([record.file for record in present], limit)]
    pixels, kept = load_images(source, [record.file for record in chosen], size=size, crop=crop, cache=cache)
    if not kept:
        listed = records[0].file if records else "nothing"
        raise FaceDataError(
            f"{name}: no image left; the labels list {len(records)} (first: {listed}) and {source.location} "
            f"holds {len(source)} (first: {source.names[0]}). Check that labels and images belong together."
        )
    rows = [chosen[index] for index in kept]
    return FaceSplit(
        name=name,
        images=torch.from_numpy(pixels),
        target=torch.tensor([row.target for row in rows], dtype=torch.int64),
        sensitive=torch.tensor([row.group for row in rows], dtype=torch.int64),
        class_names=class_names,
        group_names=group_names,
        skipped=skipped + len(chosen) - len(kept),
    )
