"""Who is in a loader: labels and groups, looked at before any training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError, FairPruneWarning
from ..fairness.groups import check_groups
from ..fairness.lagrangian import Lagrangian
from .batches import read_batch


def check_loader(
    loader: Iterable[Any], model: nn.Module, lagrangian: Lagrangian, *, split: str, limit: int | None = None
) -> None:
    """Refuses data on which the constraint cannot be learned; warns where it merely cannot be judged.

    Args:
        loader: Batches ``(x, y, s)``.
        model: Says on which device.
        lagrangian: Whose constraints are asked about.
        split: ``"train"`` or another name.
        limit: Batches to look at, for loaders that never end; default all.

    Raises:
        DataError: Training data without samples, with one group only, or with a group that a rate's condition
            never meets (no positives under equal opportunity).
    """
    if not lagrangian.constraints:
        return
    names = lagrangian.group_names
    targets, groups = _labels(islice(loader, limit), model, names, split)
    missing: list[str] = []
    present = torch.bincount(groups, minlength=len(names)) > 0
    if int(present.sum()) < 2:
        only = ", ".join(name for name, here in zip(names, present, strict=True) if here)
        raise DataError(
            f"the {split} data contain one group only ({only}) of {', '.join(names)}: a gap needs at least two; "
            "check how the sensitive attribute is read"
        )
    missing += [f"no sample of group {name}" for name, here in zip(names, present, strict=True) if not here]
    num_classes = max(2, int(targets.max()) + 1)
    for constraint in lagrangian.constraints:
        for rate in constraint.rates(num_classes):
            met = torch.bincount(groups[rate.condition(targets)], minlength=len(names)) > 0
            missing += [
                f"{constraint.name}: {rate.name} is undefined for group {name} (no sample meets its condition)"
                for name, here, ok in zip(names, present, met, strict=True)
                if here and not ok
            ]
    if missing and split == "train":
        raise DataError(
            f"the constraint cannot be learned from the training data: {'; '.join(missing[:5])}. Merge or drop the "
            "group, or use a constraint that does not condition on that label"
        )
    if missing:
        warnings.warn(
            f"on the {split} data: {'; '.join(missing[:5])}; those gaps are undefined there and such a group "
            "does not move the multipliers",
            FairPruneWarning,
            stacklevel=4,
        )


def _labels(loader: Iterable[Any], model: nn.Module, names: tuple[str, ...], split: str) -> tuple[Tensor, Tensor]:
    targets, groups = [], []
    for raw in loader:
        batch = read_batch(raw, model)
        if batch.sensitive is None:
            raise DataError(
                f"the {split} loader yields (x, y) but the constraint needs (x, y, s): add the sensitive "
                "attribute, one group id per sample"
            )
        flat = batch.targets.reshape(-1)
        checked = check_groups(batch.sensitive, batch=len(flat), group_names=names, device=flat.device)
        targets.append(flat.long().cpu())
        groups.append(checked.cpu())
    if not targets:
        raise DataError(f"the {split} loader is empty: no batch to train or judge on")
    return torch.cat(targets), torch.cat(groups)
