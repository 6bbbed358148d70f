"""A small task, its training function and NNI's evaluator over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nni
import torch
from torch import Tensor, nn

from fairprune_plugin.nni import TorchEvaluator

Batch = tuple[Tensor, Tensor, Tensor]


def batches(count: int = 4, size: int = 32, features: int = 8, seed: int = 0) -> list[Batch]:
    """Inputs, binary labels and a group whose label depends on it."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        x = torch.randn(size, features, generator=generator)
        s = torch.randint(0, 2, (size,), generator=generator)
        y = (x[:, 0] + 0.7 * s + 0.3 * torch.randn(size, generator=generator) > 0.3).long()
        out.append((x, y, s))
    return out


def mlp(width: int = 16, seed: int = 0) -> nn.Sequential:
    """8 → width → width → 2 with batch norms; layers "0", "3" and the output "6"."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, 2),
    )


def training_step(batch: Batch, model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def loop(data: list[Any], watch: Callable[[nn.Module, int], None] | None = None) -> Callable[..., None]:
    """A training function in NNI's form, over fixed batches in order."""

    def training_func(
        model: nn.Module,
        optimizers: Any,
        step: Any,
        lr_schedulers: Any = None,
        max_steps: int | None = None,
        max_epochs: int | None = None,
    ) -> None:
        total = max_steps if max_steps is not None else (max_epochs or 1) * len(data)
        for index in range(total):
            optimizers.zero_grad()
            out = step(data[index % len(data)], model)
            loss = out["loss"] if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out
            loss.backward()
            optimizers.step()
            if watch is not None:
                watch(model, index + 1)

    return training_func


def evaluator(
    model: nn.Module,
    data: list[Any] | None = None,
    *,
    step: Callable[..., Any] = training_step,
    watch: Callable[[nn.Module, int], None] | None = None,
    **options: Any,
) -> TorchEvaluator:
    """SGD with momentum and weight decay over the batches."""
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    return TorchEvaluator(loop(data or batches(), watch), optimizer, step, **options)


def config(**settings: Any) -> list[dict[str, Any]]:
    """The two hidden layers of :func:`mlp`."""
    return [{"op_names": ["0", "3"], "sparse_ratio": 0.5, **settings}]


def group_of(batch: Batch) -> Tensor:
    return batch[2]
