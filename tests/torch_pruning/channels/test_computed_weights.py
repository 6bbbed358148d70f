"""Layers whose weights are no parameters are refused by name, with calls that cure it; where no channel of them goes they
may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_networks import MLP, batches, prune_mlp, rows, sgd, train
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")

Change = Callable[[Any], object]
PARAMETRIZED: dict[str, Change] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", nn.Tanh()),
}
HOOKED: dict[str, Change] = {
    "weight_norm": weight_norm,
    "weight_norm of all": lambda layer: weight_norm(layer, dim=None),
    "spectral_norm": spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "prune twice": lambda layer: [prune.l1_unstructured(layer, "weight", 0.3) for _ in range(2)],
    "prune a bias": lambda layer: prune.random_unstructured(layer, "bias", 0.3),
}
ALL = [pytest.param(change, id=f"parametrized: {name}") for name, change in PARAMETRIZED.items()]
ALL += [pytest.param(change, id=f"hooked: {name}") for name, change in HOOKED.items()]


def cured(model: nn.Module, message: str) -> None:
    """Does what the message says."""
    for call in re.findall(r"torch\.nn\.utils\.[\w.]+\(model[^()]*\)", message):
        eval(call, {"torch": torch, "model": model})


@pytest.mark.parametrize("self_check", [True, False])
@pytest.mark.parametrize("change", ALL)
def test_layers_are_named_and_the_cure_works(change: Change, self_check: bool) -> None:
    model = MLP()
    change(model.a)
    change(model.b)
    with pytest.raises(UnsupportedModelError, match=r"\(model\.a, .*\(model\.b, |\(model\.b, .*\(model\.a, ") as raised:
        prune_mlp(model, pruning_ratio=0.5, self_check=self_check)
    before = model.eval()(rows())
    cured(model, str(raised.value))
    assert torch.allclose(model.eval()(rows()), before, atol=1e-6)
    pruner = prune_mlp(model, pruning_ratio=0.5)
    train(pruner, model, sgd(model), batches(10))
    pruner.step()
    assert model.a.out_features == 6


@pytest.mark.parametrize("change", ALL)
def test_an_ignored_layer_that_loses_inputs_is_refused(change: Change) -> None:
    model = MLP()
    change(model.fc)
    with pytest.raises(UnsupportedModelError, match=r"\(model\.fc, "):
        prune_mlp(model)


class Body(nn.Module):
    """A layer in a list, whose name in Python has an index."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.fc = nn.ModuleList([nn.Linear(6, 8) for _ in range(1)]), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.layers[0](x).relu())
        return y


def test_names_are_python() -> None:
    model = Body()
    parametrizations.weight_norm(model.layers[0])
    with pytest.raises(UnsupportedModelError, match=re.escape('(model.layers[0], "weight")')) as raised:
        BiFPPruner(model, rows(), ignored_layers=[model.fc])
    assert "add [model.layers[0]] to ignored_layers" in str(raised.value)


def test_many_layers_are_cut_short() -> None:
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(7)])
    for layer in model:
        weight_norm(layer)
    with pytest.raises(UnsupportedModelError, match=r"0, 1, 2, 3 and 3 more.*; and so for 3 more"):
        BiFPPruner(model, rows(), ignored_layers=[model[6]])


class Equalized(nn.Linear):
    """A weight that is computed by the class itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.raw = self._parameters.pop("weight")

    @property
    def weight(self) -> Any:
        return self.raw * 0.5

    @weight.setter
    def weight(self, value: Any) -> None: ...


def test_a_weight_that_the_users_class_computes() -> None:
    model = MLP()
    model.b = Equalized(12, 8)
    with pytest.raises(UnsupportedModelError, match=r"run through b, .*make model\.b\.weight an nn\.Parameter"):
        prune_mlp(model)


class Beside(MLP):
    """A branch of its own from the inputs to the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) + self.second(self.first(x).tanh())
        return out


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_a_parametrized_layer_that_keeps_its_channels_is_trained_with_the_rest(name: str) -> None:
    torch.manual_seed(0)
    model = Beside()
    PARAMETRIZED[name](model.first)
    PARAMETRIZED[name](model.second)
    own = {key: value.clone() for key, value in model.named_parameters() if key.startswith("first.")}
    pruner = prune_mlp(model, pruning_ratio=0.5, ignored_layers=[model.fc, model.first, model.second])
    train(pruner, model, sgd(model), batches(10))
    hidden = model.eval()(rows())
    pruner.step()
    assert torch.allclose(model.eval()(rows()), hidden, atol=1e-5)
    assert model.a.out_features == 6
    assert parametrize.is_parametrized(model.first)
    now = dict(model.named_parameters())
    assert all(value.shape == now[key].shape for key, value in own.items())
    assert any(not torch.equal(value, now[key]) for key, value in own.items())
