"""Masks of any pruner become a smaller model, or an error that says why not."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import pytest
import torch
from nni.compression.pruning import L1NormPruner
from torch import Tensor, nn

from fairprune_plugin import FairPruneWarning
from fairprune_plugin.errors import ConfigError, UnsupportedModelError
from fairprune_plugin.nni import BiFPPruner, configure_structured, speedup
from nni_toys import batches, config, evaluator, mlp

X = batches(1)[0][0]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("nni").setLevel(logging.ERROR)


def rows(*hidden: int, size: int = 16, width: int = 8) -> dict[str, Tensor]:
    mask = torch.ones(size, width)
    mask[list(hidden)] = 0
    return {"weight": mask, "bias": mask[:, 0].clone()}


def plain(*, norm: bool = False) -> nn.Sequential:
    """8 → 16 → 16 → 2."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)]
    if norm:
        layers[1] = nn.Sequential(nn.BatchNorm1d(16), nn.ReLU())
        nn.init.normal_(layers[1][0].bias)
    return nn.Sequential(*layers).eval()


@torch.no_grad()
def masked_outputs(model: nn.Module, masks: dict[str, dict[str, Tensor]]) -> Tensor:
    """What a model says once its parameters are masked, which they are from then on."""
    for name, targets in masks.items():
        for key, mask in targets.items():
            model.get_parameter(f"{name}.{key}").mul_(mask)
    out: Tensor = model(X)
    return out


@pytest.mark.parametrize("method", ["torch_pruning", "nni"])
def test_hidden_rows_go(method: str) -> None:
    model = plain()
    masks = {"0": rows(1, 5, 6), "2": rows(0, 15, width=16)}
    expected = masked_outputs(model, masks)
    small = speedup(model, masks, X, method=method)
    assert small is model
    assert tuple(small.get_parameter("0.weight").shape) == (13, 8)
    assert tuple(small.get_parameter("2.weight").shape) == (14, 13)
    assert tuple(small.get_parameter("4.weight").shape) == (2, 14)
    assert torch.allclose(small(X), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["torch_pruning", "nni"])
@pytest.mark.parametrize("training", [True, False])
def test_modes_and_frozen_layers_stay(method: str, training: bool) -> None:
    model = mlp().train(training)
    model[3].weight.requires_grad_(False)
    small = speedup(model, {"0": rows(2)}, X, method=method)
    assert all(module.training == training for module in small.modules())
    assert [name for name, p in small.named_parameters() if not p.requires_grad] == ["3.weight"]


def test_a_structured_layer_before_an_unstructured_one() -> None:
    model = mlp()
    entries: list[dict[str, Any]] = [{"op_names": ["0"], "sparse_ratio": 0.5}]
    entries.append({"op_names": ["3"], "sparse_ratio": 0.5, "granularity": "unstructured"})
    pruner = BiFPPruner(model, configure_structured(model, X, entries), evaluator(model), 2, 8)
    _, masks = pruner.compress(10, None)
    assert [unit_set.inside for unit_set in pruner.units.sets] == [False, False]  # "3" reads "0" and is cut up
    pruner.unwrap_model()
    model.eval()
    expected = model(X)
    small = speedup(model, masks, X)
    assert tuple(small.get_parameter("3.weight").shape) == (16, 8)
    assert torch.allclose(small(X), expected, atol=1e-5)


@pytest.mark.parametrize("granularity", ["unstructured", "2:4", "in_channel"])
def test_masks_without_whole_rows_zero_the_weights(granularity: str) -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(granularity=granularity), evaluator(model), 2, 8)
    _, masks = pruner.compress(10, None)
    pruner.unwrap_model()
    model.eval()
    expected = model(X)
    with pytest.warns(FairPruneWarning, match="keeps its size"):
        same = speedup(model, masks, X)
    assert torch.equal(same(X), expected)
    assert float((same.get_parameter("3.weight") == 0).float().mean()) == 0.5


def test_a_masked_batch_norm_that_was_not_aligned_is_said() -> None:
    model = plain(norm=True)
    pruner = L1NormPruner(model, [{"op_names": ["0"], "sparse_ratio": 0.5}])
    _, masks = pruner.compress()
    pruner.unwrap_model()
    with pytest.warns(FairPruneWarning, match=r"differs from the masked one.*configure_structured"):
        speedup(model, masks, X)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.a(x) + self.b(x)))
        return out


@pytest.mark.parametrize("method", ["torch_pruning", "nni"])
@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"a": rows(1, size=6), "b": rows(2, size=6)}, r"a and b lose channels together.*hide different ones"),
        ({"a": rows(1, size=6)}, r"conflict.*a \(its channels are those of b, which the config leaves out\)"),
        ({"fc": rows(1, size=2, width=6)}, r"fc \(its channels are the model's output\)"),
        ({"a": rows(*range(6), size=6)}, r"mask of a hides all of its 6 output channels.*max_sparse_ratio"),
        ({"c": rows(1)}, "'c', which the model does not have"),
        ({"a": rows(1, size=5)}, r"mask of a.weight has shape \(5, 8\) and the target \(6, 8\)"),
        ({"a": {"weigth": torch.ones(6, 8)}}, "a.weigth has shape"),
        ([1], "expected masks as"),
    ],
    ids=["different", "one of two", "output", "all", "name", "shape", "target", "type"],
)
def test_masks_that_do_not_fit(masks: Any, words: str, method: str) -> None:
    model = Sum()
    with pytest.raises(ConfigError, match=words):
        speedup(model, masks, X, method=method)
    untouched = Sum().state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in model.state_dict().items())


class Branches(nn.Module):
    """Two branches side by side, times a gate over both: each branch has half of the gate's channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.gate, self.fc = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.cat([self.a(x), self.b(x)], 1) * self.gate(x))
        return out


@pytest.mark.parametrize("method", ["torch_pruning", "nni"])
def test_layers_that_share_some_of_their_channels(method: str) -> None:
    masks = {"a": rows(0, 1, 2, size=4), "b": rows(3, size=4), "gate": rows(0, 1, 2, 7, size=8)}
    model = Branches().eval()
    expected = masked_outputs(model, masks)
    small = speedup(model, masks, X, method=method)
    assert [len(small.get_parameter(f"{name}.weight")) for name in ("a", "b", "gate")] == [1, 3, 4]
    assert torch.allclose(small(X), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["torch_pruning", "nni"])
def test_layers_that_share_some_of_their_channels_and_hide_different_ones(method: str) -> None:
    masks = {"a": rows(0, size=4), "b": rows(3, size=4), "gate": rows(0, 6, size=8)}
    with pytest.raises(ConfigError, match=r"(b and gate|gate and b) lose .* \(1 and 1, 2 differ\)"):
        speedup(Branches(), masks, X, method=method)


def test_channels_that_nni_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a graph to check the masks against, what NNI leaves is noticed afterwards."""

    def refuse(*_: Any) -> None:
        raise UnsupportedModelError("no graph")

    monkeypatch.setattr(importlib.import_module("fairprune_plugin.nni.speedup"), "ChannelGraph", refuse)
    with pytest.raises(UnsupportedModelError, match="ModelSpeedup kept hidden channels of a, b"):
        speedup(Sum(), {"a": rows(1, size=6), "b": rows(2, size=6)}, X, method="nni")
    small = speedup(plain(), {"0": rows(1)}, X, method="nni")
    assert tuple(small.get_parameter("0.weight").shape) == (15, 8)


def test_unknown_method() -> None:
    with pytest.raises(ConfigError, match="unknown method 'jit': choose one of torch_pruning, nni"):
        speedup(plain(), {}, X, method="jit")


def test_a_model_that_fx_cannot_trace() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if x.sum() > 0:
                x = torch.relu(x)
            out: Tensor = self.b(x)
            return out

    with pytest.raises(UnsupportedModelError, match="method='torch_pruning'"):
        speedup(Branching(), {"a": rows(1)}, X, method="nni")
    assert tuple(speedup(Branching(), {"a": rows(1)}, X).get_parameter("b.weight").shape) == (2, 15)


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_inputs_in_other_forms(form: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            out: Tensor = self.net(x * scale)
            return out

    scale = torch.tensor(2.0)
    inputs: Any = (X, scale) if form == "tuple" else {"x": X, "scale": scale}
    small = speedup(Two(), {"net.0": rows(3)}, inputs)
    assert tuple(small.get_parameter("net.0.weight").shape) == (15, 8)
