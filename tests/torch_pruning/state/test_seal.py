"""The digest changes with everything that is saved, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fairprune_plugin.torch_pruning.state.seal import digest

RECORD: dict[str, Any] = {"history": [["a", True, [0, 1]]], "class": "m.Net"}


def tensors() -> dict[str, Tensor]:
    return {
        "a": torch.arange(6.0).reshape(2, 3),
        "number": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
        "complex": torch.ones(2, dtype=torch.complex64),
    }


CHANGES: dict[str, Any] = {
    "a bit": lambda t: t["a"].view(torch.int32)[1].bitwise_xor_(1),
    "a sign of zero": lambda t: t["a"].view(torch.int32)[0, 0].bitwise_xor_(-(2**31)),
    "a shape": lambda t: t.update(a=t["a"].reshape(3, 2)),
    "a dtype": lambda t: t.update(a=t["a"].view(torch.int32)),
    "a name": lambda t: t.update(b=t.pop("a")),
    "swapped names": lambda t: t.update(a=t["number"], number=t["a"]),
    "one fewer": lambda t: t.pop("none"),
    "a flag": lambda t: t["flags"].logical_not_(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_changes(change: str) -> None:
    changed = tensors()
    CHANGES[change](changed)
    assert digest(RECORD, changed) != digest(RECORD, tensors())


def test_it_changes_with_the_record() -> None:
    assert digest({**RECORD, "history": []}, tensors()) != digest(RECORD, tensors())


def test_order_and_layout_in_memory_do_not_count() -> None:
    other = dict(reversed(tensors().items()))
    other["a"] = other["a"].T.contiguous().T
    assert digest(dict(reversed(RECORD.items())), other) == digest(RECORD, tensors())
