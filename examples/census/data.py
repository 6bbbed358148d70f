"""Adult census income data (UCI, 1994) as shipped inside the PyPI package ``xai`` (MIT): no download at run time.

32,561 people; target: income above 50,000 $; sensitive attribute: gender, or gender × ethnicity.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

NUMERIC = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORICAL = ("workclass", "marital-status", "occupation", "relationship", "ethnicity", "gender")
SENSITIVE = ("gender", "gender_x_ethnicity")
MINORITIES = ("Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other")  # 4.5 % of the rows together: one group


@dataclass(frozen=True)
class CensusSplit:
    """Features ``(N, F)`` float32, target ``(N,)`` and group ids ``(N,)`` int64."""

    x: Tensor
    y: Tensor
    s: Tensor

    def loader(self, batch_size: int, *, shuffle: bool, seed: int = 0) -> DataLoader[tuple[Tensor, ...]]:
        """Batches ``(x, y, s)``; the order depends on the seed alone."""
        return DataLoader(
            TensorDataset(self.x, self.y, self.s),
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            generator=torch.Generator().manual_seed(seed),
        )


@dataclass(frozen=True)
class Census:
    """Train, validation and test split (50 / 25 / 25 %) and the names of the groups."""

    train: CensusSplit
    validation: CensusSplit
    test: CensusSplit
    group_names: tuple[str, ...]

    @property
    def num_features(self) -> int:
        return self.train.x.shape[1]


def census_file() -> Path:
    """Where the installed ``xai`` package keeps the table (the package itself is not imported).

    Raises:
        FileNotFoundError: If it is not installed.
    """
    spec = importlib.util.find_spec("xai")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the census table ships inside the package xai: pip install --no-deps xai==0.3.0")
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "census.csv"


def load_census(*, sensitive: str = "gender", seed: int = 0) -> Census:
    """Reads and splits the data; numbers are standardised with the training split, words one-hot encoded.

    Args:
        sensitive: ``"gender"`` (2 groups) or ``"gender_x_ethnicity"`` (6 groups).
        seed: Of the split.
    """
    if sensitive not in SENSITIVE:
        raise ValueError(f"unknown sensitive attribute {sensitive!r}: choose one of {', '.join(SENSITIVE)}")
    with census_file().open(newline="") as handle:
        rows = [{key: value.strip() for key, value in row.items()} for row in csv.DictReader(handle)]
    target = torch.tensor([int(row["loan"] == ">50K") for row in rows])
    groups = [_group(row, sensitive) for row in rows]
    names = tuple(sorted(set(groups)))
    group_ids = torch.tensor([names.index(group) for group in groups])
    numeric = torch.tensor([[float(row[key]) for key in NUMERIC] for row in rows])
    numeric[:, 2:4] = torch.log1p(numeric[:, 2:4])  # gains and losses: mostly 0, up to 99,999
    words = torch.cat([_one_hot([row[key] for row in rows]) for key in CATEGORICAL], dim=1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    bounds = [0, len(rows) // 2, 3 * len(rows) // 4, len(rows)]
    train = order[: bounds[1]]
    numeric = (numeric - numeric[train].mean(0)) / numeric[train].std(0)
    x = torch.cat([numeric, words], dim=1)
    parts = [order[a:b] for a, b in pairwise(bounds)]
    splits = [CensusSplit(x[part], target[part], group_ids[part]) for part in parts]
    return Census(*splits, group_names=names)


def _group(row: dict[str, str], sensitive: str) -> str:
    if sensitive == "gender":
        return row["gender"]
    ethnicity = "Minority" if row["ethnicity"] in MINORITIES else row["ethnicity"]
    return f"{row['gender']} {ethnicity}"


def _one_hot(values: list[str]) -> Tensor:
    names = sorted(set(values))
    ids = torch.tensor([names.index(value) for value in values])
    return torch.nn.functional.one_hot(ids, len(names)).float()
