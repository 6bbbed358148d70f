"""The sensitive attribute of a batch: group ids declared by the constraint, checked before they are used."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError


def check_groups(sensitive: Tensor, *, batch: int, group_names: tuple[str, ...], device: torch.device) -> Tensor:
    """Group id of each sample, ``(N,)`` int64.

    Args:
        sensitive: ``(N,)`` whole numbers in ``[0, G)``; bool and whole floats are accepted.
        batch: Number of samples ``N`` of the logits.
        group_names: Names of the ``G`` declared groups.
        device: Where the logits are.

    Raises:
        DataError: Wrong type, shape, device, NaN, fractions, negative ids, or an id that was never declared.
    """
    if not isinstance(sensitive, Tensor):
        raise DataError(f"expected the sensitive attribute as a tensor of group ids, got {type(sensitive).__name__}")
    if sensitive.shape != (batch,):
        raise DataError(
            f"expected a sensitive attribute of shape ({batch},), one group id per sample, got {tuple(sensitive.shape)}"
        )
    if sensitive.device != device:
        raise DataError(f"logits are on {device} but the sensitive attribute on {sensitive.device}: move the batch")
    if sensitive.is_complex():
        raise DataError(f"expected integer group ids, got dtype {sensitive.dtype}")
    if sensitive.is_floating_point():
        if bool(torch.isnan(sensitive).any()):
            raise DataError(
                "the sensitive attribute has NaN: give the unknown group an id of its own or drop those samples"
            )
        if not torch.equal(sensitive, sensitive.round()):
            raise DataError("expected integer group ids, got fractions: map each group to 0 … G−1")
    ids = sensitive.long()
    low, high = torch.aminmax(ids)
    if bool(low < 0):
        raise DataError(f"expected group ids in [0, {len(group_names)}), got the negative id {int(low)}")
    if bool(high >= len(group_names)):
        raise DataError(
            f"group id {int(high)} was never declared: this constraint knows {len(group_names)} groups "
            f"({', '.join(group_names[:8])}{', …' if len(group_names) > 8 else ''}); pass "
            f"groups={int(high) + 1} (or their names) to the constraint"
        )
    return ids
