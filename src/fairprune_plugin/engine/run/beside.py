"""A look at a loader's data while training is on its way through them."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import DataLoader


def beside(loader: Any) -> Any:
    """The same data in the same order, to be walked without disturbing another walk.

    A ``DataLoader`` with persistent workers has one iterator, which every new walk sets back to the beginning: of such a
    one it is a copy, with workers of its own as long as a walk takes.
    """
    if not isinstance(loader, DataLoader) or not loader.persistent_workers:
        return loader
    other = copy.copy(loader)
    vars(other).update(persistent_workers=False, _iterator=None)
    return other
