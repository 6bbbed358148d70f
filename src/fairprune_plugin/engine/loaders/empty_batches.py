"""Batches without samples, such as a ``collate_fn`` makes that leaves out what cannot be read: nothing is learned or judged
by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor


def has_no_samples(raw: Any) -> bool:
    """Whether no tensor of a batch, as a loader yields it, has a row. Inputs without their targets are something else."""
    rows = [value.dim() > 0 and len(value) == 0 for value in _tensors(raw)]
    return bool(rows) and all(rows)


def with_samples(loader: Iterable[Any]) -> Iterator[Any]:
    """The other batches of a loader."""
    return (raw for raw in loader if not has_no_samples(raw))


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        yield from _tensors(list(part.values()))
    elif isinstance(part, tuple | list):
        for value in part:
            yield from _tensors(value)
