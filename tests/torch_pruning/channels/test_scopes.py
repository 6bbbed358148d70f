"""Which groups are ranked together, with which ratio and floor."""

from __future__ import annotations

from typing import Any

import pytest

from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.channels.scopes import group_limits, ranking_scopes, scope_of
from zoo import CASES
from zoo.resnet_basic import ResNetBasic

(CASE,) = [case for case in CASES if case.name == "resnet-basic"]


def build(model: ResNetBasic | None = None, **options: Any) -> BiFPPruner:
    model = model or ResNetBasic()
    return BiFPPruner(
        model, CASE.inputs(), **{"pruning_ratio": 0.5, "ignored_layers": [model.fc], "self_check": False, **options}
    )


def partition(pruner: BiFPPruner) -> list[set[str]]:
    """Names of the groups that are ranked together."""
    keys = [scope_of(pruner, group) for group in pruner.host_groups]
    scopes = ranking_scopes(keys, pruner.host_groups, {})
    return [{pruner.host_groups[i].channels.name for i in scope.groups} for scope in scopes]


def test_local_ranking_has_a_scope_for_every_group() -> None:
    pruner = build()
    assert all(len(members) == 1 for members in partition(pruner))
    assert len(partition(pruner)) == len(pruner.host_groups) == 8


def test_global_ranking_has_one_scope() -> None:
    assert len(partition(build(global_pruning=True))) == 1


def test_isomorphic_ranking_joins_equal_blocks() -> None:
    scopes = partition(build(global_pruning=True, isomorphic=True))
    inner = {f"stages.{i}.conv1" for i in range(5)}
    assert inner in scopes  # the first convolution of every block plays the same part
    assert 1 < len(scopes) < 8


@pytest.mark.parametrize("is_global", [True, False])
def test_a_tuple_of_layers_is_one_scope_in_global_ranking(is_global: bool) -> None:
    model = ResNetBasic()
    pair = (model.stages[0].conv1, model.stages[3].conv1)
    pruner = build(model, global_pruning=is_global, pruning_ratio_dict={pair: 0.25})
    names = {"stages.0.conv1", "stages.3.conv1"}
    keys = {g.channels.name: scope_of(pruner, g) for g in pruner.host_groups}
    assert {name for name, key in keys.items() if key.user_defined} == names
    assert all(keys[name].ratio == 0.25 for name in names)
    assert (names in partition(pruner)) == is_global


def test_ratios_stay_under_the_cap() -> None:
    model = ResNetBasic()
    layer = model.stages[0].conv1
    pruner = build(model, pruning_ratio=0.9, max_pruning_ratio=0.6, pruning_ratio_dict={layer: 0.8})
    assert {scope_of(pruner, group).ratio for group in pruner.host_groups} == {0.6}


def test_initial_sizes_are_remembered_over_rounds() -> None:
    pruner = build(iterative_steps=2)
    keys = [scope_of(pruner, group) for group in pruner.host_groups]
    initial = {key.name: 100 for key in keys}
    assert {scope.initial_units for scope in ranking_scopes(keys, pruner.host_groups, initial)} == {100}


@pytest.mark.parametrize(
    ("ratio", "round_to", "floors"),
    [(1.0, None, {1}), (0.75, None, {2, 4, 8}), (0.75, 4, {4, 8}), (1.0, 4, {4}), (0.5, 16, {8, 16})],
)
def test_floors(ratio: float, round_to: int | None, floors: set[int]) -> None:
    pruner = build()  # groups of 8, 16 and 32 channels
    limits = group_limits(pruner.host_groups, max_pruning_ratio=ratio, round_to=round_to, initial={})
    assert {limit.floor for limit in limits} == floors
    assert all(limit.multiple == (round_to or 1) for limit in limits)
    assert limits[-1].units.stop == sum(group.channels.num_units for group in pruner.host_groups)


@pytest.mark.parametrize(("name", "floor"), [("resnext", 2), ("mobilenetv2", 2), ("vgg-bn-flatten", 1)])
def test_layers_the_host_would_mistake_keep_two_units(name: str, floor: int) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = case.build()
    pruner = BiFPPruner(model, case.inputs(), pruning_ratio=0.5, ignored_layers=case.ignored(model), self_check=False)
    limits = group_limits(pruner.host_groups, max_pruning_ratio=1.0, round_to=None, initial={})
    assert max(limit.floor for limit in limits) == floor
