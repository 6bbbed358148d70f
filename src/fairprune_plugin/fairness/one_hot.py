"""One-hot classes where labels are expected: exactly one of them set looks like a class id in another dress."""

from __future__ import annotations

from torch import Tensor

from .outputs import Outputs


def looks_one_hot(targets: Tensor) -> bool:
    """Whether targets ``(N, L)`` of labels have exactly one set in every row."""
    return bool((targets.sum(dim=1) == 1).all())


def one_hot_note(labels: int) -> str:
    """What to say of it."""
    return (
        f"every sample has exactly one of {labels} labels: read as a multi-label task; if these are one-hot classes, pass "
        "class ids, y.argmax(1)"
    )


def one_hot_notes(outputs: Outputs) -> list[str]:
    """The note if it applies."""
    if outputs.num_labels is None or not looks_one_hot(outputs.targets):
        return []
    return [one_hot_note(outputs.num_labels)]
