"""Decode image files into one uint8 array, with an optional cache outside the repository."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from .errors import FaceDataError
from .source import ImageSource

_REPOSITORY = Path(__file__).resolve().parents[2]


def decode(data: bytes, *, size: int, crop: float = 1.0) -> npt.NDArray[np.uint8]:
    """Decode one image to RGB and resize it to a square; the aspect ratio is not kept.

    Args:
        data: Encoded bytes (JPEG or PNG).
        size: Side H = W of the result in pixels.
        crop: Share of each side kept around the centre before resizing, in (0, 1].

    Returns:
        Pixels (3, size, size), 0-255.

    Raises:
        OSError: If the bytes are not a complete image.
    """
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    left, top = width * (1 - crop) / 2, height * (1 - crop) / 2
    box = (left, top, width - left, height - top)
    # A whole shrink factor makes the box filter an exact block mean; otherwise it would alias.
    whole = crop == 1.0 and width % size == 0 and height % size == 0
    method = Image.Resampling.BOX if whole else Image.Resampling.BILINEAR
    pixels = np.asarray(image.resize((size, size), method, box=box), dtype=np.uint8)
    return pixels.transpose(2, 0, 1)


def load_images(
    source: ImageSource, names: Sequence[str], *, size: int, crop: float = 1.0, cache: Path | None = None
) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Decode the named images; files that are no complete image are left out.

    Args:
        source: Where the images lie.
        names: Names in ``source``, length N.
        size: Side of the result in pixels.
        crop: See :func:`decode`.
        cache: Folder for decoded arrays, outside the repository; None keeps nothing on disk.

    Returns:
        Pixels (K, 3, size, size) with K <= N, and the K positions in ``names`` that could be decoded.

    Raises:
        FaceDataError: If ``cache`` lies inside the repository, or ``size`` or ``crop`` is out of range.
    """
    if size < 1 or not 0.0 < crop <= 1.0:
        raise FaceDataError(f"expected size >= 1 and 0 < crop <= 1, got size={size}, crop={crop}")
    stored = None if cache is None else _cache_file(cache, source, names, size=size, crop=crop)
    if stored is not None and stored.is_file():
        with np.load(stored, allow_pickle=False) as arrays:
            return arrays["pixels"], arrays["kept"].tolist()
    pixels = np.empty((len(names), 3, size, size), dtype=np.uint8)
    kept: list[int] = []
    for index, name in enumerate(names):
        try:
            pixels[len(kept)] = decode(source.read(name), size=size, crop=crop)
        except (UnidentifiedImageError, OSError):
            continue
        kept.append(index)
    pixels = pixels[: len(kept)]
    if stored is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: a run that is killed must not leave half a file under the final name.
        partial = stored.with_name(f"{stored.stem}.{os.getpid()}.partial.npz")
        np.savez(partial, pixels=pixels, kept=np.asarray(kept, dtype=np.int64))
        partial.replace(stored)
    return pixels, kept


def _cache_file(cache: Path, source: ImageSource, names: Sequence[str], *, size: int, crop: float) -> Path:
    folder = cache.resolve()
    if folder.is_relative_to(_REPOSITORY):
        # Research licences forbid passing images on; a cache in the checkout is one `git add` away.
        raise FaceDataError(f"cache must lie outside the repository, got {cache}; choose another folder")
    digest = hashlib.sha256(f"{source.location.resolve()}|{size}|{crop!r}".encode())
    for name in names:
        digest.update(f"\n{name}|{source.stamp(name)}".encode())
    return folder / f"faces-{digest.hexdigest()[:24]}.npz"
