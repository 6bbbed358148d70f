"""The size model against the host's count of models that were really pruned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_pruning as tp
from host_networks import MLP, ResidualCNN, images, rows
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.size.macs import count


class Mixed(nn.Module):
    """Depthwise, pooling, activations as modules, PReLU, transposed convolution and flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU6(),
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.PReLU(12),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 10, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(10, 8, 2, stride=2),
            nn.GroupNorm(2, 8),
            nn.Flatten(),
            nn.Linear(8 * 36, 9),
            nn.LayerNorm(9),
            nn.ReLU(),
        )
        self.fc = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x))
        return out


MODELS: dict[str, Any] = {"mlp": MLP, "residual": ResidualCNN, "mixed": Mixed}


def example(model: nn.Module, samples: int) -> Tensor:
    return rows(samples) if isinstance(model, MLP) else images(samples)


@pytest.mark.parametrize("samples", [1, 4], ids=lambda n: f"batch-{n}")
@pytest.mark.parametrize("name", MODELS)
def test_count_is_the_hosts(name: str, samples: int) -> None:
    model = MODELS[name]().eval()
    macs, params = tp.utils.count_ops_and_params(model, example(model, samples))
    assert count(model, example(model, samples)) == (macs, params)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hidden", [0.3, 0.7])
@pytest.mark.parametrize("samples", [1, 4], ids=lambda n: f"batch-{n}")
@pytest.mark.parametrize("name", MODELS)
def test_masked_sizes_are_those_of_the_pruned_model(name: str, samples: int, hidden: float, seed: int) -> None:
    model = MODELS[name]()
    inputs = example(model, samples)
    pruner = BiFPPruner(model, inputs, ignored_layers=[model.fc], total_steps=2, bilevel={"ramp_end": 1.0})
    assert pruner.masked_size("macs") == pytest.approx(pruner.dense_macs, rel=1e-6)
    assert pruner.masked_size("params") == pruner.dense_params
    keep = torch.rand(len(pruner.engine.weights.keep), generator=torch.Generator().manual_seed(seed)) > hidden
    for index, group in enumerate(pruner.host_groups):
        mine = keep[pruner.engine.weights.of(index)]
        mine[: group.least_units] = True
    pruner.engine.set_mask(keep)
    masked = {target: pruner.masked_size(target) for target in ("macs", "params")}
    for group in pruner._remove():
        group.prune()
    macs, params = tp.utils.count_ops_and_params(model, inputs)
    assert masked["params"] == params
    assert masked["macs"] == pytest.approx(macs, rel=0.02)
    assert macs < pruner.dense_macs


def test_counting_leaves_the_model_and_the_terminal_alone(capsys: pytest.CaptureFixture[str]) -> None:
    model = ResidualCNN().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, {"x": images()})
    count(model, images(), lambda model, x: F.relu(model(x)))
    assert capsys.readouterr().out == ""
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
