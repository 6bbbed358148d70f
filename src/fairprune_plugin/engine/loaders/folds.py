"""Held-out data where none was given: K folds within the training data, one at a time kept away from the weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from ...checks import whole_number
from ...errors import ConfigError


@runtime_checkable
class Foldable(Protocol):
    """A loader of the user's own that can be split: ``fold(k, i)`` gives batches without and of the i-th of k parts."""

    def fold(self, k: int, i: int) -> tuple[Iterable[Any], Iterable[Any]]: ...


class Folds:
    """Training data in ``k`` parts. During pass ``e`` over the data part ``e mod k`` is held out: its rates are those of
    samples that did not move the weights for ``k − 1`` passes at most, which is less than never.

    Args:
        loader: A map-style ``DataLoader`` with its usual samplers, a sequence of batches, or a :class:`Foldable`.
        k: Number of parts, at least 2.

    Raises:
        ConfigError: For a loader that cannot be split, or fewer than two parts.
    """

    def __init__(self, loader: Iterable[Any], k: int) -> None:
        k = whole_number("folds", k, 2)
        self._loader = loader
        self._k = k
        if isinstance(loader, DataLoader):
            if not _is_plain(loader):
                raise ConfigError(
                    "folds need a DataLoader over a map-style dataset with a batch_size and the default samplers: pass a "
                    "validation loader instead, or a loader with a method fold(k, i)"
                )
            if len(loader.dataset) < k:  # type: ignore[arg-type]
                raise ConfigError(f"expected at least {k} samples for {k} folds, got {len(loader.dataset)}")  # type: ignore[arg-type]
        elif isinstance(loader, Sequence):
            if len(loader) < k:
                raise ConfigError(f"expected at least {k} batches for {k} folds, got {len(loader)}")
        elif not isinstance(loader, Foldable):
            raise ConfigError(
                f"cannot split a {type(loader).__name__} into folds: pass a DataLoader, a list of batches, a loader with a "
                "method fold(k, i), or a validation loader"
            )

    @property
    def k(self) -> int:
        """Number of parts."""
        return self._k

    def of_pass(self, number: int) -> tuple[Iterable[Any], Iterable[Any]]:
        """``(training batches, held-out batches)`` of a pass over the data, 0, 1, 2, …"""
        return self.split(number % self._k)

    def split(self, fold: int) -> tuple[Iterable[Any], Iterable[Any]]:
        """Batches without and of a part; which sample is in which part is fixed."""
        if isinstance(self._loader, DataLoader):
            samples = len(self._loader.dataset)  # type: ignore[arg-type]
            order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
            part = torch.arange(samples) % self._k == fold
            return self._sub_loader(order[~part]), self._sub_loader(order[part], held_out=True)
        if isinstance(self._loader, Foldable):
            return self._loader.fold(self._k, fold)
        assert isinstance(self._loader, Sequence)
        rest = [batch for i, batch in enumerate(self._loader) if i % self._k != fold]
        return rest, list(self._loader[fold :: self._k])

    def _sub_loader(self, index: torch.Tensor, *, held_out: bool = False) -> DataLoader[Any]:
        loader = self._loader
        assert isinstance(loader, DataLoader)
        shuffled = isinstance(loader.sampler, RandomSampler)
        return DataLoader(
            Subset(loader.dataset, index.tolist() if shuffled else sorted(index.tolist())),
            batch_size=loader.batch_size,
            shuffle=shuffled,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            drop_last=loader.drop_last and not held_out,
            generator=loader.generator,
            worker_init_fn=loader.worker_init_fn,
        )


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether a loader over other samples would do what this one does."""
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples != len(sampler.data_source)):
        return False
    usual = isinstance(sampler, RandomSampler | SequentialSampler) and loader.batch_size is not None
    return usual and not isinstance(loader.dataset, IterableDataset)
