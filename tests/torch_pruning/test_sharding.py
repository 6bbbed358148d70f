"""What sharded training asks of torch; the rest needs several ranks (``integration_tests/test_sharded.py``)."""

from __future__ import annotations

import copy

import pytest
import torch
from constrained_mlp import constrained
from torch.torch_version import TorchVersion

from fairprune_plugin.errors import ConfigError, UnsupportedModelError


@pytest.mark.parametrize("version", ["2.6.0", "2.8.0+cu128"])
def test_an_older_torch_is_refused_by_its_version(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pruner = constrained()
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with pytest.raises(
        UnsupportedModelError, match=rf"expected torch 2\.9 or newer .*, got {version.replace('+', '.')}: "
    ):
        pruner.attach(copy.deepcopy(model))


@pytest.mark.parametrize("version", ["2.9.0", "2.10.0+cpu", "3.0.1"])
def test_a_newer_one_is_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pruner = constrained()
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with pytest.raises(ConfigError, match="expected a model that fully_shard"):
        pruner.attach(copy.deepcopy(model))
