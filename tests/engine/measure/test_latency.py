"""Latency: eval mode, no gradients, modes restored."""

from __future__ import annotations

import torch
from torch import nn

from fairprune_plugin.engine.measure.latency import latency_ms


def test_latency_is_taken_in_eval_mode_without_gradients() -> None:
    model, seen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)), []
    model[1].eval()  # a frozen batch norm in a model in training

    def modes() -> list[bool]:
        return [module.training for module in model.modules()]

    before = modes()

    def run() -> None:
        seen.append((any(modes()), torch.is_grad_enabled()))
        model(torch.randn(2, 3))

    assert latency_ms(model, run, repeats=5) > 0
    assert modes() == before
    assert set(seen) == {(False, False)}
    assert len(seen) == 3 + 5
