"""Splits and subsamples decided by a hash of a name, so that they never depend on order or on a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence


def unit_hash(key: str, *, salt: str) -> float:
    """Map a name to a fixed number in [0, 1).

    Args:
        key: The name, e.g. an image file or a person.
        salt: Separates the uses: the same name must not be "early" in a split and in a subsample at once.
    """
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    # 53 bits fill a double exactly; more could round up to 1.0.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def split_of(key: str, *, fractions: Mapping[str, float], salt: str) -> str:
    """Assign a name to a split.

    Args:
        key: The name that must stay in one split as a whole.
        fractions: Expected share of each split, in order; the last takes what is left.
        salt: Usually the data set's name.

    Returns:
        One of the keys of ``fractions``.
    """
    position, edge = unit_hash(key, salt=salt), 0.0
    names = list(fractions)
    for name in names[:-1]:
        edge += fractions[name]
        if position < edge:
            return name
    return names[-1]


def subsample(names: Sequence[str], limit: int | None) -> list[int]:
    """Positions of a deterministic subsample, in the original order.

    The subsample of a smaller limit is contained in that of a larger one.

    Args:
        names: Distinct names, length N.
        limit: Largest number to keep; None keeps all.

    Returns:
        Ascending positions, length min(N, limit).

    Raises:
        ValueError: If ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be None or at least 1, got {limit}")
    if limit is None or limit >= len(names):
        return list(range(len(names)))
    ranked = sorted(range(len(names)), key=lambda index: unit_hash(names[index], salt="subsample"))
    return sorted(ranked[:limit])
