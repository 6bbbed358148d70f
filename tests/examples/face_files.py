"""Generated images for the loader tests: noise, so that no face ever enters the repository."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

WriteImages = Callable[[Path, Iterable[str]], None]


def jpeg(seed: int, *, width: int = 24, height: int = 30) -> bytes:
    """Encode noise as a JPEG; another seed gives another image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def write_folder(folder: Path, names: Iterable[str]) -> None:
    """Write one image per name below ``folder``."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
