"""Accuracy of each group over some batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fairprune_plugin.engine.loaders.batches import Forward, default_forward, read_batch
from fairprune_plugin.errors import DataError
from fairprune_plugin.fairness.groups import Groups
from fairprune_plugin.fairness.outputs import Outputs


@torch.no_grad()
def group_accuracies(
    model: nn.Module, loader: Iterable[Any], groups: Groups, forward: Forward = default_forward
) -> tuple[Tensor, Tensor]:
    """Accuracies and shares of the groups, both ``(G,)`` float64, of the model in eval mode.

    Raises:
        DataError: If a group has no sample.
    """
    hits = torch.zeros(len(groups.names), dtype=torch.float64)
    counts = torch.zeros_like(hits)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for raw in loader:
            batch = read_batch(raw, model)
            outputs = Outputs.parse(forward(model, batch.inputs), batch.targets)
            ids = groups.checked_ids(batch.sensitive, batch=len(batch.targets), device=batch.targets.device).cpu()
            right = (outputs.predicted() == outputs.targets).double().cpu()
            hits.index_add_(0, ids, right)
            counts.index_add_(0, ids, torch.ones_like(right))
    finally:
        for module, mode in modes.items():
            module.training = mode
    missing = [name for name, count in zip(groups.names, counts.tolist(), strict=True) if count == 0]
    if missing:
        raise DataError(f"expected samples of every group, got none of {', '.join(missing)}: give more batches")
    return hits / counts, counts / counts.sum()
