"""A batch has no samples if none of its tensors has a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairprune_plugin.engine.loaders.empty_batches import has_no_samples, with_samples

X, Y = torch.randn(3, 2), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    "raw",
    [
        (X[:0], Y[:0], Y[:0]),
        [X[:0], Y[:0]],
        {"x": X[:0], "y": Y[:0], "s": []},
        ({"a": X[:0], "names": []}, Y[:0], Y[:0]),
        ((X[:0], X[:0]), Y[:0]),
    ],
    ids=["tuple", "list", "dict", "named inputs", "several inputs"],
)
def test_without_samples(raw: Any) -> None:
    assert has_no_samples(raw)


@pytest.mark.parametrize(
    "raw",
    [(X, Y, Y), (X, Y[:0]), (X[:0], Y), {"x": X, "y": Y[:0]}, (), {}, None, 3, [["a"], ["b"]], (torch.tensor(1.0),)],
    ids=str,
)
def test_with_samples_or_something_else(raw: Any) -> None:
    """What has inputs and no targets is not left out: it is a mistake that somebody must hear of."""
    assert not has_no_samples(raw)


def test_the_others_come_in_their_order() -> None:
    empty = (X[:0], Y[:0])
    batches = [(X, Y), (X + 1, Y)]
    assert [id(b) for b in with_samples([empty, batches[0], empty, batches[1], empty])] == [id(b) for b in batches]
