"""Data from the command line: a loader, or a table in a ``.csv`` or ``.npz`` file, with or without predictions."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .imports import called

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?")  # as numbers of groups are written
_WHOLE = re.compile(r"-?\d+(\.0*)?")


@dataclass(frozen=True)
class Columns:
    """Names of the columns (arrays of an ``.npz``) of a file.

    Attributes:
        label: True class.
        sensitive: One or more sensitive attributes.
        features: Inputs of the model; empty: all others.
        logits: Scores of the model, one column or one per class.
        reference: Scores of the reference model.
    """

    label: str
    sensitive: tuple[str, ...]
    features: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """What a file says that needs no model any more; shapes as in :func:`~..audit.audit_predictions`."""

    logits: Tensor
    targets: Tensor
    sensitive: Any
    reference: Tensor | None


@dataclass(frozen=True)
class Batches:
    """A file as a loader: batches ``(x, y, s)``."""

    features: Tensor
    targets: Tensor
    sensitive: Mapping[str, Any]
    size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Any]]:
        for start in range(0, len(self.targets), self.size):
            part = slice(start, start + self.size)
            sensitive = {name: column[part] for name, column in self.sensitive.items()}
            yield self.features[part], self.targets[part], _alone(sensitive)


def load_data(spec: str, columns: Columns, *, has_model: bool, batch_size: int) -> Any:
    """A loader, or :class:`Predictions` where there is no model.

    Raises:
        ConfigError: If the arguments do not say enough.
        DataError: If the file cannot be read, or a column is missing (it is named).
    """
    if batch_size < 1:
        raise ConfigError(f"expected --batch-size ≥ 1, got {batch_size}")
    suffix = Path(spec).suffix.lower()
    if suffix not in (".csv", ".npz"):
        if ":" not in spec:
            raise ConfigError(f"expected --data as package.module:callable, a .csv or a .npz file, got {spec!r}")
        if not has_model:
            raise ConfigError("a loader needs a --model; predictions without a model come from a .csv or .npz file")
        return called(spec, "--data")
    table = _read_csv(spec) if suffix == ".csv" else _read_npz(spec)
    targets = _numbers(table, (columns.label,), "--label", spec)
    sensitive = {name: _attribute(_column(table, name, "--sensitive", spec)) for name in columns.sensitive}
    if not has_model:
        if not columns.logits:
            raise ConfigError(
                "without a --model the predictions come from the file: name their columns, --logits logit"
            )
        logits = _numbers(table, columns.logits, "--logits", spec)
        reference = _numbers(table, columns.reference, "--reference-logits", spec) if columns.reference else None
        return Predictions(logits, targets, _alone(sensitive), reference)
    taken = {columns.label, *columns.sensitive}
    features = columns.features or (
        ("features",) if suffix == ".npz" else tuple(name for name in table if name not in taken)
    )
    return Batches(_numbers(table, features, "--features", spec).float(), targets, sensitive, batch_size)


def _alone(sensitive: Mapping[str, Any]) -> Any:
    """A single attribute by itself, several as a mapping."""
    return next(iter(sensitive.values())) if len(sensitive) == 1 else sensitive


def _read_csv(path: str) -> dict[str, Any]:
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = reader.fieldnames or []
    except UnicodeDecodeError as error:
        raise DataError(
            f"expected {path} as text in UTF-8, got bytes that are not ({error.reason} at byte {error.start}): save it "
            "again in UTF-8, in a spreadsheet as CSV UTF-8, or with iconv -f LATIN1 -t UTF-8 where LATIN1 is what it is in"
        ) from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"expected each name once in the header of {path}, got {', '.join(twice)} more than once: rename a column"
        )
    if not rows:
        raise DataError(f"expected a header and at least one row in {path}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"expected {len(names)} values in line {number} of {path}, as in its header")
    return {name: [row[name] for row in rows] for name in names}


def _read_npz(path: str) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError as error:
        raise DataError(f"cannot read {path} (names as text arrays, not as objects): {error}") from error


def _column(table: Mapping[str, Any], name: str, option: str, path: str) -> Any:
    if name not in table:
        raise DataError(f"no column {name!r} in {path}, which has {', '.join(table)}: name the right one with {option}")
    return table[name]


def _numbers(table: Mapping[str, Any], names: Sequence[str], option: str, path: str) -> Tensor:
    """Columns as a tensor: ``(N,)`` or an array's own shape for one column, ``(N, K)`` for several."""
    found = []
    for name in names:
        values = _column(table, name, option, path)
        try:
            found.append(torch.as_tensor(np.asarray(values, dtype=np.float64)))
        except ValueError as error:
            raise DataError(f"expected numbers in column {name!r} of {path} ({option}): {error}") from error
    if not found:
        raise DataError(f"{path} has no column left for {option}")
    one_column = len(found) == 1 and (option != "--features" or found[0].dim() > 1)
    return found[0] if one_column else torch.stack(found, dim=1)


def _attribute(column: Any) -> Any:
    """Whole numbers as a tensor, names as a list; an empty field, ``nan`` or ``None`` is a missing value.

    What is written like a number otherwise (``02139``, ``18_25``, ``1e3``) is a name, and so are numbers that the tensor
    could not tell apart: float64, which missing values need, ends at 2⁵³, int64 at 2⁶³.
    """
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    values = [int(value) if isinstance(value, bool) else value for value in values]
    names = [None if _absent(value) else value for value in values]
    if any(value is not None and not _NUMBER.fullmatch(str(value).strip()) for value in names):
        return [None if value is None else str(value) for value in names]
    present = [str(value).strip() for value in names if value is not None]
    if not all(_WHOLE.fullmatch(value) for value in present):
        return torch.tensor([math.nan if value is None else float(value) for value in names], dtype=torch.float64)
    ids = [None if value is None else int(str(value).strip().split(".")[0]) for value in names]
    complete = len(present) == len(ids)
    if any(abs(value) >= (2**63 if complete else 2**53) for value in ids if value is not None):
        return [None if value is None else str(value) for value in ids]
    if complete:
        return torch.tensor(ids, dtype=torch.int64)
    return torch.tensor([math.nan if value is None else float(value) for value in ids], dtype=torch.float64)


def _absent(value: Any) -> bool:
    return value is None or str(value).strip().lower() in ("", "nan", "none")
