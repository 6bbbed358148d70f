"""Groups are found once while a pruner is built, and anew after channels went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch_pruning as tp
from host_networks import ResidualCNN, batches, images, sgd, train
from torch import nn

from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.channels.found_groups import FoundGroups


class Graph:
    """Counts how often its groups are looked for."""

    def __init__(self) -> None:
        self.searches = 0

    def get_all_groups(self, ignored_layers: list[Any], root_module_types: list[Any]) -> Iterator[str]:
        self.searches += 1
        yield from ("first", f"without {len(ignored_layers)}", f"of {len(root_module_types)} types")


def test_the_same_question_is_asked_once() -> None:
    graph, layer = Graph(), nn.Linear(2, 2)
    find = FoundGroups(graph)
    once = list(find(ignored_layers=[layer], root_module_types=[nn.Linear]))
    assert once == ["first", "without 1", "of 1 types"]
    assert list(find(ignored_layers=[layer], root_module_types=[nn.Linear])) == once
    assert graph.searches == 1
    assert list(find(ignored_layers=[], root_module_types=[nn.Linear])) == ["first", "without 0", "of 1 types"]
    assert list(find(ignored_layers=[layer], root_module_types=[nn.Conv2d, nn.Linear]))[-1] == "of 2 types"
    assert graph.searches == 3
    assert list(find(ignored_layers=[layer], root_module_types=[nn.Linear])) == once
    assert graph.searches == 3


def test_a_search_that_was_left_early_is_no_answer() -> None:
    graph = Graph()
    find = FoundGroups(graph)
    assert next(find(ignored_layers=[], root_module_types=[])) == "first"
    assert len(list(find(ignored_layers=[], root_module_types=[]))) == 3
    assert graph.searches == 2


def test_a_pruner_searches_its_graph_once_and_again_after_each_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Any] = []
    original = tp.DependencyGraph.get_all_groups

    def counting(graph: Any, *args: Any, **options: Any) -> Iterator[Any]:
        searched.append(graph)
        return original(graph, *args, **options)

    monkeypatch.setattr(tp.DependencyGraph, "get_all_groups", counting)
    model = ResidualCNN()
    pruner = BiFPPruner(model, images(), pruning_ratio=0.5, ignored_layers=[model.fc], total_steps=8, iterative_steps=2)
    assert searched == [pruner.DG]
    assert len(list(pruner.DG.get_all_groups(ignored_layers=[model.fc]))) == len(pruner.host_groups)
    assert searched == [pruner.DG] * 2  # nothing is remembered any more

    widths = []
    for _ in range(2):
        train(pruner, model, sgd(model), batches(4, image=True))
        pruner.step()
        widths.append([group.channels.num_units for group in pruner.host_groups])
    assert len(searched) == 4
    assert widths[1] < widths[0]
