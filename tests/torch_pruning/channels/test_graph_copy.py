"""The graph of a copied model, against the host's own of the same copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from host_networks import MLP, ResidualCNN, images
from torch import Tensor, nn

from fairprune_plugin.torch_pruning.channels.graph_copy import copied_graph


class Branches(nn.Module):
    """Split, slice and concatenation, a grouped and a depthwise convolution, a flatten, and a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 5, 1)
        self.third = nn.Conv2d(8, 3, 1)
        self.mixed = nn.Conv2d(14, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.fc1, self.fc2 = nn.Linear(8 * 36, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.scale
        left, right = x.chunk(2, 1)
        x = torch.cat([self.left(left), self.third(x), self.right(right)], 1)
        x = self.norm(self.grouped(self.deep(self.mixed(x)).relu())).relu()
        out: Tensor = self.fc2(self.fc1(x.flatten(1)).relu())
        return out


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (MLP, lambda: torch.randn(4, 6)),
    "residual": (ResidualCNN, images),
    "branches": (Branches, images),
}


def graph_of(model: nn.Module, example: Tensor) -> Any:
    options: dict[str, Any] = {}
    if isinstance(model, Branches):
        options["unwrapped_parameters"] = [(model.scale, 1)]
    return tp.DependencyGraph().build_dependency(model, example, **options)


def in_copy(graph: Any, model: nn.Module) -> tuple[nn.Module, Any]:
    twin = copy.deepcopy(model)
    copies: dict[Any, Any] = dict(zip(model.modules(), twin.modules(), strict=True))
    copies.update(zip(model.parameters(), twin.parameters(), strict=True))
    return twin, copied_graph(graph, twin, copies)


def described(graph: Any) -> list[list[tuple[str, str, list[int], list[int]]]]:
    """All groups in plain values: function, layer, channels, and channels of the root."""

    def layer(part: Any) -> str:
        return graph._module2name.get(part) or graph._param_to_name.get(part, "") if part is not None else ""

    return [
        [
            (group[i].dep.handler.__qualname__, layer(group[i].dep.target.module), group[i].idxs, group[i].root_idxs)
            for i in range(len(group))
        ]
        for group in graph.get_all_groups()
    ]


def prune_half(graph: Any, model: nn.Module, names: list[str]) -> None:
    for name in names:
        layer: Any = model.get_submodule(name)
        function = graph.get_pruner_of_module(layer).prune_out_channels
        channels = graph.get_out_channels(layer)
        graph.get_pruning_group(layer, function, list(range(1, channels, 2))).prune()


@pytest.mark.parametrize("name", MODELS)
def test_it_has_the_groups_of_a_graph_that_was_traced(name: str) -> None:
    build, example = MODELS[name]
    model = build()
    graph = graph_of(model, example())
    twin, copied = in_copy(graph, model)
    assert described(copied) == described(graph_of(copy.deepcopy(model), example()))
    layers = {module for group in copied.get_all_groups() for module in (dep.target.module for dep, _ in group)}
    assert not layers & set(graph.module2node)
    assert copied.model is twin


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("mlp", ["b", "a"]),
        ("residual", ["conv1", "stem"]),
        ("branches", ["right", "left", "fc1", "third", "stem"]),
        ("branches", ["stem", "fc1", "left", "right"]),
    ],
)
def test_pruned_it_is_what_a_traced_one_becomes_and_the_original_stays(name: str, order: list[str]) -> None:
    build, example = MODELS[name]
    model = build().eval()
    graph = graph_of(model, example())
    before, groups = {key: value.clone() for key, value in model.state_dict().items()}, described(graph)
    twin, copied = in_copy(graph, model)
    traced = copy.deepcopy(model)
    prune_half(copied, twin, order)
    graph_of_traced = graph_of(traced, example())
    prune_half(graph_of_traced, traced, order)

    assert [p.shape for p in twin.parameters()] != [p.shape for p in model.parameters()]
    expected = traced.state_dict()
    assert twin.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in twin.state_dict().items())
    assert described(copied) == described(graph_of_traced)
    assert copied.pruning_history() == graph_of_traced.pruning_history()
    x = example()
    assert torch.equal(twin(x), traced(x))

    assert graph.pruning_history() == []
    assert described(graph) == groups
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    prune_half(graph, model, order)  # the original's turn
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
