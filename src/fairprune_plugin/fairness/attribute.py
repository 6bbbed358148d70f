"""A sensitive attribute: which values it has, and how a column of them becomes positions among these."""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import shown
from ..errors import ConfigError, DataError
from ..value_checks import known_in_range, refuse_if

UNKNOWN = -1
MOST_GROUPS = 1_000_000
LARGEST_ID = 2**63 - 1
_WHOLE = re.compile(r"(-?[0-9]{1,20})(\.0*)?")


_TRUTH = {"False": 0, "True": 1}


@dataclass(frozen=True)
class Attribute:
    """One sensitive attribute.

    Attributes:
        key: Where a batch keeps it: a key of a mapping, a column of an ``(N, A)`` tensor, or ``None`` when the
            sensitive attribute is given by itself.
        names: Of its values; empty while they are to be discovered.
        codes: The whole number that stands for each value; default ``0 … K−1``, or the names if they are numbers.
    """

    key: str | int | None
    names: tuple[str, ...]
    codes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"expected distinct names for the values of {self}, got {self.names}")

    def __str__(self) -> str:
        return "the sensitive attribute" if self.key is None else f"the sensitive attribute {self.key!r}"

    def ids(self, column: Any, device: torch.device) -> Tensor:
        """Position of each sample's value among the names, ``(N,)`` int64; :data:`UNKNOWN` if it is none of them."""
        if isinstance(column, Tensor):
            values = whole_numbers(column, self)
            if self.codes is not None:
                hits = values[:, None] == on_device(values.device, self.codes)
                return torch.where(hits.any(1), hits.long().argmax(1), UNKNOWN)
            if known_in_range(values, len(self.names)):
                return values
            return torch.where((values >= 0) & (values < len(self.names)), values, UNKNOWN)
        index = {name: position for position, name in enumerate(self.names)}
        return torch.tensor([index.get(str(value), UNKNOWN) for value in column], device=device, dtype=torch.long)


def declared_attribute(key: Any, spec: Any) -> Attribute:
    """An attribute as it is declared: the number of its values, their names, or ``None`` (to be discovered).

    Names that are whole numbers are the values themselves: ``groups=(18, 65)`` are the groups 18 and 65, also as floats
    (pandas makes those of a column with missing values), and ``groups=(True, False)`` those of flags.

    Raises:
        ConfigError: For anything else.
    """
    if isinstance(key, bool) or not isinstance(key, str | int | None):
        raise ConfigError(f"expected the sensitive attribute's name or column number as a key, got {shown(key)}")
    names = () if spec is None else _names(spec)
    codes = codes_of(names)
    if len(set(codes)) < len(codes) or any(abs(code) > LARGEST_ID for code in codes):
        raise ConfigError(f"expected names that are numbers to be different 64-bit ids, got {shown(names)}")
    return Attribute(key, names, codes if codes and codes != tuple(range(len(names))) else None)


def codes_of(names: tuple[str, ...]) -> tuple[int, ...]:
    """The whole numbers that names are, or stand for as truth values; none if they are other names."""
    if names and all(name in _TRUTH for name in names):
        return tuple(_TRUTH[name] for name in names)
    found = [_WHOLE.fullmatch(name) for name in names]
    return tuple(int(whole[1]) for whole in found if whole) if all(found) else ()


def _names(spec: Any) -> tuple[str, ...]:
    if isinstance(spec, numbers.Integral) and not isinstance(spec, bool):
        return tuple(str(i) for i in range(int(spec))) if 0 < int(spec) <= MOST_GROUPS else _refuse(spec)
    if isinstance(spec, np.ndarray) and spec.ndim == 1:
        spec = spec.tolist()
    if isinstance(spec, Sequence) and not isinstance(spec, str | bytes):
        names = tuple(str(name.item() if isinstance(name, Tensor) and name.dim() == 0 else name) for name in spec)
        if len(set(names)) == len(names) and names:
            return names
        raise ConfigError(f"expected at least two distinct group names, got {shown(names)}")
    return _refuse(spec)


def _refuse(spec: Any) -> tuple[str, ...]:
    raise ConfigError(
        "expected at least two groups (their number, their names, or a mapping from attribute to either) and at "
        f"most {MOST_GROUPS}, got {shown(spec)}: one group alone has no gap"
    )


def is_missing(value: Any) -> bool:
    """Whether an entry of a list of names is none: ``None``, a NaN of any kind, pandas' ``NA``."""
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124 - NaN alone differs from itself
    except TypeError:  # whether NA differs from itself is NA too
        return True


def whole_numbers(values: Tensor, attribute: Attribute) -> Tensor:
    """``(N,)`` int64 from whole numbers of any dtype.

    Raises:
        DataError: For complex numbers, NaN, infinities or fractions.
    """
    if values.is_complex():
        raise DataError(f"expected integer group ids in {attribute}, got dtype {values.dtype}")
    if values.is_floating_point():
        refuse_if(
            ~torch.isfinite(values).all(),
            lambda: DataError(
                f"{attribute} has NaN or infinite ids: give the unknown group an id of its own or drop those samples"
            ),
        )
        refuse_if(
            (values != values.round()).any(),
            lambda: DataError(f"expected integer group ids in {attribute}, got fractions: map each group to 0 … G−1"),
        )
    return values.long()


@lru_cache(maxsize=64)
def on_device(device: torch.device, values: tuple[int, ...]) -> Tensor:
    """Whole numbers on a device, ``(n,)`` int64, copied there once: each copy would wait for the device."""
    return torch.tensor(values, device=device)
