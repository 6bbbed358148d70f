"""Who is in a loader: labels and groups, looked at before any training."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ...distributed import ALONE, Ranks
from ...errors import DataError
from ...fairness.constraint import Constraint
from ...fairness.lagrangian import TRAIN, Lagrangian
from ...fairness.one_hot import looks_one_hot, one_hot_note
from ...fairness.outputs import Task
from ...warn import warn_caller
from ..data_parallel import different_data
from .batches import check_iterable, missing_sensitive, read_batch
from .empty_batches import with_samples


@dataclass(frozen=True)
class Labels:
    """Targets and sensitive attributes of one batch, on the CPU."""

    targets: Tensor
    sensitive: Any


def check_loader(
    loader: Iterable[Any], model: nn.Module, lagrangian: Lagrangian, *, split: str, limit: int | None = None
) -> None:
    """Refuses data on which the constraint cannot be learned; warns where it merely cannot be judged. Discovers groups
    that were not declared, from training data: held-out ones may lack some.

    Args:
        loader: Batches ``(x, y, s)``.
        model: Says on which device.
        lagrangian: Whose constraints are asked about.
        split: ``"train"`` or another name.
        limit: Batches to look at, for loaders that never end; default all.

    Raises:
        DataError: Data without samples or with one group only; training data with a group that a rate's condition
            never meets (no positives under equal opportunity), unless ``min_group_size`` lets such groups be.
        TrainingStateError: For another split, if groups are still to be discovered.
    """
    if not lagrangian.constraints:
        return
    if split != TRAIN:
        lagrangian.refuse_unknown_groups()
    labels = read_labels(loader, model, split, ranks=lagrangian.ranks, limit=limit)
    if split == TRAIN:
        discover_groups(lagrangian, labels)
        _refuse_one_class(labels)
    task = _task(labels, lagrangian.constraints)
    if task.num_labels is not None and split == TRAIN:
        _warn_of_one_hot(labels)
        lagrangian.knows_targets = True  # all of them, which says more than its first batch would
    missing, small = [], []
    for constraint in lagrangian.constraints:
        totals = _totals(constraint, task, labels)
        absent, too_small = _gaps_in(constraint, task, totals, split)
        missing += absent
        small += too_small
    missing, small = list(dict.fromkeys(missing)), list(dict.fromkeys(small))
    if missing and split == TRAIN:
        raise DataError(
            f"the constraint cannot be learned from the training data: {'; '.join(missing[:5])}. Merge or drop the "
            "group, let small groups be (min_group_size=1), or use a constraint that does not condition on that label"
        )
    if small:
        warn_caller(
            f"on the {split} data: {'; '.join(small[:5])}{'; …' if len(small) > 5 else ''}; reported, not constrained"
        )
    if missing:
        warn_caller(
            f"on the {split} data: {'; '.join(missing[:5])}; those gaps are undefined there and such a group "
            "does not move the multipliers"
        )


def discover_groups(lagrangian: Lagrangian, labels: list[Labels]) -> None:
    """Fills in groups that were left to the data."""
    batches = [(batch.sensitive, len(batch.targets), torch.device("cpu")) for batch in labels]
    lagrangian.discover_groups(batches)


def read_labels(
    loader: Iterable[Any], model: nn.Module, split: str, *, ranks: Ranks = ALONE, limit: int | None = None
) -> list[Labels]:
    """Targets and sensitive attributes of every batch of a loader that has samples, and of those of the other ranks.

    Raises:
        DataError: If there is none, or one lacks the sensitive attribute.
    """
    check_iterable(loader, split)
    parts = ranks.collect(lambda: _read_labels(islice(loader, limit), model, split))
    labels = [batch for part in different_data(parts, loader, _same_labels) for batch in part]
    if not labels:
        raise DataError(f"the {split} loader is empty: no batch with samples to train or judge on")
    return labels


def _read_labels(loader: Iterable[Any], model: nn.Module, split: str) -> list[Labels]:
    labels = []
    for raw in with_samples(loader):
        batch = read_batch(raw, model)
        if batch.sensitive is None:
            raise missing_sensitive(raw, split)
        if not isinstance(batch.targets, Tensor) or not bool(torch.isfinite(batch.targets).all()):
            what = "NaN or infinite values" if isinstance(batch.targets, Tensor) else type(batch.targets).__name__
            raise DataError(f"expected the targets of the {split} data as a tensor of class ids, got {what}")
        if not batch.targets.numel():
            raise DataError(
                f"expected a target for each sample of the {split} data, got a batch whose targets are of shape "
                f"{tuple(batch.targets.shape)} beside inputs with samples: check how the loader puts its batches together"
            )
        # Copies: a loader may fill the same memory with its next batch.
        labels.append(Labels(batch.targets.to("cpu", copy=True), _to_cpu(batch.sensitive)))
    return labels


def _same_labels(one: list[Labels], other: list[Labels]) -> bool:
    """Whether two ranks have read the same data, in whatever order: as many samples of each label and group."""
    counts = [Counter(str(row) for batch in part for row in _rows(batch)) for part in (one, other)]
    return counts[0] == counts[1]


def _rows(batch: Labels) -> Iterator[Any]:
    columns = batch.sensitive.values() if isinstance(batch.sensitive, Mapping) else (batch.sensitive,)
    return zip(*(c.tolist() if isinstance(c, Tensor) else list(c) for c in (batch.targets, *columns)), strict=False)


def _to_cpu(sensitive: Any) -> Any:
    if isinstance(sensitive, Tensor):
        return sensitive.to("cpu", copy=True)
    if isinstance(sensitive, Mapping):
        return {key: _to_cpu(value) for key, value in sensitive.items()}
    return copy.copy(sensitive)


def _task(labels: list[Labels], constraints: Iterable[Constraint]) -> Task:
    """The task as far as targets tell: classes that never occur and that no constraint is about are not counted."""
    first = labels[0].targets
    if first.dim() == 2 and first.shape[1] > 1:
        return Task(2, first.shape[1])
    known = [int(batch.targets.max()) for batch in labels] + [c.positive for c in constraints if c.positive is not None]
    return Task(max(2, max(known) + 1))


def _warn_of_one_hot(labels: list[Labels]) -> None:
    if all(looks_one_hot(batch.targets) for batch in labels):
        warn_caller(one_hot_note(labels[0].targets.shape[1]))


def _refuse_one_class(labels: list[Labels]) -> None:
    first = labels[0].targets.reshape(-1)[:1]
    if all(bool((batch.targets == first).all()) for batch in labels):
        raise DataError(
            f"all labels of the training data are {first.item():g}: there is nothing to learn; check how the targets are "
            "read"
        )


def _totals(constraint: Constraint, task: Task, labels: list[Labels]) -> Tensor:
    """Samples of each group in all (first row), and behind each rate, ``(1 + R, G)``."""
    rates = constraint.rates(task)
    totals = torch.zeros(1 + len(rates), constraint.num_groups, dtype=torch.float32)
    for batch in labels:
        flat = batch.targets if task.num_labels is not None else batch.targets.reshape(-1)
        ids = constraint.group_spec.checked_ids(batch.sensitive, batch=len(flat), device=flat.device)
        counted = torch.stack(
            [torch.ones(len(flat), dtype=torch.float32), *(rate.counted(flat.long()).float() for rate in rates)]
        )
        totals.index_add_(1, ids, counted)
    return totals


def _gaps_in(constraint: Constraint, task: Task, totals: Tensor, split: str) -> tuple[list[str], list[str]]:
    """What a constraint misses in the data, and which groups are smaller than it wants them."""
    names, least = constraint.group_names, constraint.min_group_size
    present = totals[0] > 0
    if int(present.sum()) < 2:
        only = ", ".join(name for name, here in zip(names, present, strict=True) if here)
        raise DataError(
            f"the {split} data contain one group only ({only}) of {', '.join(names)}: a gap needs at least two; "
            "check how the sensitive attribute is read"
        )
    absent = [f"no sample of group {name}" for name, here in zip(names, present, strict=True) if not here]
    small = []
    for rate, row in zip(constraint.rates(task), totals[1:], strict=True):
        for name, here, count in zip(names, present, row.tolist(), strict=True):
            if 0 < count < least:
                small.append(f"{rate.name} of group {name} rests on {int(count)} samples, fewer than {least}")
            elif here and count == 0:
                absent.append(
                    f"{constraint.name}: {rate.name} is undefined for group {name} (no sample meets its condition)"
                )
    return ([], small + absent) if least else (absent, small)
