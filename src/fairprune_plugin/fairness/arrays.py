"""NumPy arrays of numbers as tensors, also those that torch does not take as they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .attribute import LARGEST_ID

NUMERIC = "biuf"


def is_numeric(array: np.ndarray) -> bool:
    """Whether it holds truth values or real numbers, not names, dates or objects."""
    return array.dtype.kind in NUMERIC


def tensor_of(array: np.ndarray) -> Tensor:
    """A numeric array, copied to the CPU, of the same shape. Reversed and strided views, another machine's byte order and
    read-only memory are none of torch's; floats wider than 64 bits become float64, which it has.

    Raises:
        DataError: For numbers that only fit unsigned 64 bits.
    """
    if array.dtype.kind == "u" and array.size and int(array.max()) > LARGEST_ID:
        raise DataError(f"expected group ids that fit 64 bits, got {array.max()}")
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    native = np.dtype(np.float64) if wide else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=native, order="C"))
