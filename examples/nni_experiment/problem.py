"""What a trial prunes: a network with its data. The census MLP, or a small ResNet on faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from census.data import load_census
from census.network import mlp
from fairprune_plugin.errors import ConfigError

from .settings import Settings

Batch = tuple[Tensor, Tensor, Tensor]  # x, y, s


@dataclass(frozen=True)
class Problem:
    """A dense model yet to be trained, and batches ``(x, y, s)``.

    Attributes:
        model: With random weights.
        layers: Type of the layers that lose output channels.
        output_layer: Name of the one that keeps its width.
        example: Two inputs, for tracing.
        group_names: In the order of the group ids.
        train: Makes a shuffled pass over the training data, without an incomplete last batch.
        validation: Batches that choose.
        test: Batches that are only reported.
    """

    model: nn.Module
    layers: str
    output_layer: str
    example: Tensor
    group_names: tuple[str, ...]
    train: Callable[[], Iterable[Batch]]
    validation: Iterable[Batch]
    test: Iterable[Batch]

    def endless(self) -> Iterator[Batch]:
        """Training batches, pass after pass."""
        while True:
            yield from self.train()


def problem(settings: Settings) -> Problem:
    """The problem that the settings name; the same seed gives the same data and weights.

    Raises:
        ConfigError: If the training data do not fill a single batch, or the folder of the faces is missing.
    """
    made = _census(settings) if settings.data == "census" else _faces(settings)
    if next(iter(made.train()), None) is None:
        raise ConfigError(f"the training data hold fewer samples than batch_size={settings.batch_size}")
    return made


def _census(settings: Settings) -> Problem:
    data = load_census(sensitive=settings.sensitive, seed=settings.seed)
    torch.manual_seed(settings.seed)
    model = mlp(data.num_features)
    train = data.train.loader(settings.batch_size, shuffle=True, seed=settings.seed)
    return Problem(
        model=model,
        layers="Linear",
        output_layer=str(len(model) - 1),
        example=data.train.x[:2],
        group_names=data.group_names,
        train=lambda: train,
        validation=data.validation.loader(1024, shuffle=False),
        test=data.test.loader(4096, shuffle=False),
    )


def _faces(settings: Settings) -> Problem:
    from faces import ResNet10, load_faces

    if settings.root is None:
        raise ConfigError(f"the faces of {settings.data!r} need root=FOLDER, the data set as its publisher packs it")
    splits: dict[str, Any] = load_faces(
        settings.data, settings.root, target=settings.target, sensitive=settings.sensitive, limit=settings.limit
    )
    torch.manual_seed(settings.seed)
    order = torch.Generator().manual_seed(settings.seed)
    train = splits["train"].loader(
        batch_size=settings.batch_size, shuffle=True, flip=True, drop_last=True, generator=order
    )
    return Problem(
        model=ResNet10(num_classes=len(splits["train"].class_names), width=16),
        layers="Conv2d",
        output_layer="fc",
        example=splits["train"].batch(slice(0, 2))[0],
        group_names=splits["train"].group_names,
        train=lambda: train,
        validation=splits["val"].loader(batch_size=512),
        test=splits["test"].loader(batch_size=512),
    )
