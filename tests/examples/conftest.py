"""Make ``examples/`` and this folder's helpers importable; offer images in a folder or in a zip."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

_HERE = Path(__file__).resolve()
for _folder in (str(_HERE.parent), str(_HERE.parents[2] / "examples")):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

from face_files import WriteImages, write_folder  # noqa: E402  (needs the path above)


@pytest.fixture(params=["folder", "zip"])
def write_images(request: pytest.FixtureRequest) -> WriteImages:
    """Write images below a folder, or pack them as ``<folder>.zip`` with the folder inside."""

    def write(folder: Path, names: Iterable[str]) -> None:
        write_folder(folder, names)
        if request.param == "zip":
            shutil.make_archive(str(folder), "zip", root_dir=folder.parent, base_dir=folder.name)
            shutil.rmtree(folder)

    return write
