"""What breaks down while a graph is built: the host, or the model that it traces."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from torch import nn

from fairprune_plugin.torch_pruning.channels.graph import raised_by_host


def test_a_models_own_error_is_not_taken_for_the_hosts() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise TypeError("the model wants two inputs")

    with pytest.raises(TypeError, match="wants two inputs") as raised:
        tp.DependencyGraph().build_dependency(Wrong(), torch.randn(2, 4))
    assert not raised_by_host(raised.value)
    with pytest.raises(AssertionError) as raised_there, torch.no_grad():
        tp.DependencyGraph().build_dependency(nn.Linear(4, 4), torch.randn(2, 4))
    assert raised_by_host(raised_there.value)
    assert not raised_by_host(TypeError("never raised"))
