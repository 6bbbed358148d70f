"""The guard brings running statistics back, and follows a model whose buffers change shape."""

from __future__ import annotations

import torch
from torch import nn

from fairprune_plugin.engine.buffers import BufferGuard


def test_a_poisoned_forward_is_undone() -> None:
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    guard = BufferGuard(norm)
    norm(torch.randn(8, 3))
    guard.remember()
    good = [b.clone() for b in norm.buffers()]
    norm(torch.full((8, 3), float("nan")))
    assert norm.running_mean.isnan().all()
    guard.restore()
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), good, strict=True))


def test_smaller_buffers_are_remembered_anew() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    guard = BufferGuard(model)
    model[0] = nn.BatchNorm1d(2)
    guard.remember()
    model[0].running_mean.fill_(5.0)
    guard.restore()
    assert model[0].running_mean.tolist() == [0, 0]


def test_a_model_without_buffers() -> None:
    guard = BufferGuard(nn.Linear(2, 2))
    guard.remember()
    guard.restore()
