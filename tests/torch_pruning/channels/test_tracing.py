"""The host traces with gradients on and in eval mode; the user sees neither."""

from __future__ import annotations

import pytest
import torch

from driving import SmallCNN
from fairprune_plugin.torch_pruning.channels.tracing import undisturbed


def test_everything_is_restored() -> None:
    model = SmallCNN()
    model.bn1.eval()
    model.conv2.requires_grad_(False)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.no_grad(), undisturbed(model):
        assert torch.is_grad_enabled()
        assert all(p.requires_grad for p in model.parameters())
        model.eval()
        torch.randn(5)
    assert torch.is_grad_enabled()
    assert model.training
    assert model.conv1.training
    assert not model.bn1.training
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["conv2.weight"]
    assert torch.equal(torch.get_rng_state(), state)


def _fail_in(model: SmallCNN) -> None:
    with torch.no_grad(), undisturbed(model):
        model.eval()
        raise RuntimeError("from the host")


def test_after_an_error_as_well() -> None:
    model = SmallCNN()
    model.fc.requires_grad_(False)
    with pytest.raises(RuntimeError, match="from the host"):
        _fail_in(model)
    assert model.training
    assert not model.fc.weight.requires_grad
    with torch.no_grad():
        with undisturbed(model):
            pass
        assert not torch.is_grad_enabled()
