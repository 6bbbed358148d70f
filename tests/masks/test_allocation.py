"""Projections: floors, multiples, Torch-Pruning's counts, nested masks, and budgets met to within a unit."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.masks.allocation import (
    GroupLimits,
    RankingScope,
    check_reachable,
    floor_units,
    keep_by_channels,
    keep_by_size,
)
from fairprune_plugin.masks.cost import CostModel, parameter_entries
from fairprune_plugin.masks.masked_weights import MaskedWeights
from toy_networks import Chain

Parts = tuple[torch.Tensor, ...]


def limits_of(
    sizes: list[int], floors: list[int], multiples: list[int], parts: list[Parts] | None = None
) -> list[GroupLimits]:
    out, start = [], 0
    parts = parts or [()] * len(sizes)
    for size, floor, multiple, own in zip(sizes, floors, multiples, parts, strict=True):
        out.append(GroupLimits(slice(start, start + size), floor, multiple, own))
        start += size
    return out


@st.composite
def groups(draw: st.DrawFn, multiples: tuple[int, ...] = (1,)) -> tuple[list[GroupLimits], torch.Tensor]:
    """One to four groups with floors, some of them of two or three branches, and scores with ties."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    chosen = [draw(st.sampled_from(multiples)) for _ in sizes]
    parts = [torch.arange(size).chunk(draw(st.integers(1, min(3, size)))) for size in sizes]
    parts = [own if len(own) > 1 else () for own in parts]
    ratios = [draw(st.sampled_from([0.5, 0.9, 1.0])) for _ in sizes]
    floors = [
        floor_units(size, ratio, multiple, max(1, len(own)))
        for size, ratio, multiple, own in zip(sizes, ratios, chosen, parts, strict=True)
    ]
    scores = draw(st.lists(st.integers(0, 9), min_size=sum(sizes), max_size=sum(sizes)))
    return limits_of(sizes, floors, chosen, parts), torch.tensor(scores, dtype=torch.float32)


def best_first(scores: torch.Tensor, group: GroupLimits) -> torch.Tensor:
    """Scores of a group in which the best of each part is beyond all others."""
    own = scores[group.units].clone()
    for part in group.parts:
        own[part[own[part].argmax()]] = 10
    return own


def kept_of(keep: torch.Tensor, limits: list[GroupLimits]) -> list[int]:
    return [int(keep[group.units].sum()) for group in limits]


TWENTIETHS = st.integers(0, 19)


@pytest.mark.parametrize(
    ("units", "ratio", "multiple", "floor"),
    [
        (10, 1.0, 1, 1),
        (10, 0.7, 1, 3),
        (10, 0.75, 1, 3),
        (10, 0.95, 4, 4),
        (3, 0.95, 4, 3),
        (16, 0.7, 4, 8),
        (1, 1.0, 1, 1),
    ],
)
def test_floor(units: int, ratio: float, multiple: int, floor: int) -> None:
    assert floor_units(units, ratio, multiple) == floor


@given(st.integers(1, 64), TWENTIETHS)
def test_kept_channels_of_a_layer_are_torch_prunings_count(units: int, twentieths: int) -> None:
    """``n_pruned = current − int(initial · (1 − ratio))``, without the rounding error of the product."""
    limits = limits_of([units], [1], [1])
    scope = RankingScope((0,), twentieths / 20, units)
    keep = keep_by_channels(torch.rand(units), limits, [scope], 1.0)
    exact = math.floor(units * (1 - Fraction(twentieths, 20)))
    assert int(keep.sum()) == max(exact, 1)
    host = int(units * (1 - twentieths / 20))
    assert host in (exact, exact - 1)  # the host loses one where the product falls just short of a whole number


@given(groups(), TWENTIETHS)
def test_a_scope_keeps_its_share_and_every_floor(data, twentieths: int) -> None:
    limits, scores = data
    total = len(scores)
    scope = RankingScope(tuple(range(len(limits))), twentieths / 20, total)
    keep = keep_by_channels(scores, limits, [scope], 1.0)
    kept = kept_of(keep, limits)
    assert all(k >= group.floor >= 1 for k, group in zip(kept, limits, strict=True))
    exact = math.floor(total * (1 - Fraction(twentieths, 20)))
    assert sum(kept) == max(exact, sum(group.floor for group in limits))
    # Within a group the best stay, and one unit of every branch.
    for group in limits:
        inside, scored = keep[group.units], best_first(scores, group)
        assert all(inside[part].any() for part in group.parts)
        if inside.any() and not inside.all():
            assert float(scored[inside].min()) >= float(scored[~inside].max())


@given(groups(multiples=(1, 2, 4)), TWENTIETHS)
def test_multiples(data, twentieths: int) -> None:
    limits, scores = data
    for index, group in enumerate(limits):
        keep = keep_by_channels(scores, limits, [RankingScope((index,), twentieths / 20, group.size)], 1.0)
        kept = int(keep[group.units].sum())
        assert kept >= group.floor
        assert kept % group.multiple == 0 or kept in (group.floor, group.size)
        assert all(keep[group.units][part].any() for part in group.parts)
        exact = math.floor(group.size * (1 - Fraction(twentieths, 20)))
        assert kept <= max(exact, group.floor)  # rounded down, as the host does
        assert keep.sum() - kept == len(scores) - group.size, "groups outside the scope stay whole"


@given(groups(multiples=(1, 2, 4)), st.integers(1, 19), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_masks_are_nested_as_progress_rises(data, twentieths: int, progress: list[float]) -> None:
    limits, scores = data
    scope = RankingScope(tuple(range(len(limits))), twentieths / 20, len(scores))
    masks = [keep_by_channels(scores, limits, [scope], value) for value in sorted([0.0, *progress, 1.0])]
    assert masks[0].all()
    for before, after in itertools.pairwise(masks):
        assert not (after & ~before).any()


def test_ratio_refers_to_the_dense_model() -> None:
    """After a first round of removal 6 of 10 units are left; half of the ten stay, not half of the six."""
    limits = limits_of([6], [1], [1])
    keep = keep_by_channels(torch.arange(6.0), limits, [RankingScope((0,), 0.5, 10)], 1.0)
    assert keep.tolist() == [False, True, True, True, True, True]


def test_scopes_do_not_compete() -> None:
    limits = limits_of([4, 4], [1, 1], [1, 1])
    scores = torch.tensor([1.0, 2, 3, 4, 10, 20, 30, 40])
    apart = keep_by_channels(scores, limits, [RankingScope((0,), 0.5, 4), RankingScope((1,), 0.25, 4)], 1.0)
    assert apart.tolist() == [False, False, True, True, False, True, True, True]
    together = keep_by_channels(scores, limits, [RankingScope((0, 1), 0.375, 8)], 1.0)
    assert together.tolist() == [False, False, False, True, True, True, True, True]


WIDTHS = (6, 5)


def chain_cost() -> CostModel:
    model = Chain(WIDTHS)
    weights = MaskedWeights(model.groups())
    return CostModel(parameter_entries(model.parameters(), weights), weights.num_units)


SCORES = st.lists(st.integers(0, 9), min_size=11, max_size=11).map(lambda v: torch.tensor(v, dtype=torch.float32))
EVERYONE = torch.ones(11, dtype=torch.bool)


@given(SCORES, st.floats(0.05, 1.1))
def test_size_budget_is_met_to_within_a_unit(scores: torch.Tensor, share: float) -> None:
    cost, limits = chain_cost(), limits_of([*WIDTHS], [1, 1], [1, 1])
    size = share * cost.dense
    keep = keep_by_size(scores, limits, cost, size, start=EVERYONE, groups=[0, 1])
    assert all(kept_of(keep, limits)), "no group may be emptied"
    floor = float(cost.size(torch.tensor([1, *[0] * 5, 1, *[0] * 4])))
    wanted = min(max(size, floor), cost.dense)
    assert abs(float(cost.size(keep)) - wanted) <= float(cost.unit_costs().max()) / 2 + 1e-9
    for group in limits:
        inside, scored = keep[group.units], scores[group.units]
        if not inside.all():
            assert float(scored[inside].min()) >= float(scored[~inside].max())


@given(SCORES, st.floats(0.05, 1.1), st.sampled_from([1, 2]))
def test_a_size_budget_leaves_one_unit_to_every_branch(scores: torch.Tensor, share: float, multiple: int) -> None:
    cost, halves = chain_cost(), torch.arange(6).chunk(2)
    limits = limits_of([*WIDTHS], [2, multiple], [multiple] * 2, [halves, ()])
    keep = keep_by_size(scores, limits, cost, share * cost.dense, start=EVERYONE, groups=[0, 1])
    assert all(keep[:6][half].any() for half in halves)


@given(SCORES, st.lists(st.floats(0.1, 1.0), min_size=2, max_size=5), st.sampled_from([1, 2, 3]))
def test_smaller_budgets_give_nested_masks_with_multiples(scores, shares: list[float], multiple: int) -> None:
    cost = chain_cost()
    floors = [floor_units(width, 0.8, multiple) for width in WIDTHS]
    limits = limits_of([*WIDTHS], floors, [multiple] * 2)
    masks = [
        keep_by_size(scores, limits, cost, share * cost.dense, start=EVERYONE, groups=[0, 1])
        for share in sorted(shares, reverse=True)
    ]
    for before, after in itertools.pairwise(masks):
        assert not (after & ~before).any()
    for keep in masks:
        for kept, group in zip(kept_of(keep, limits), limits, strict=True):
            assert kept >= group.floor
            assert kept % multiple == 0 or kept in (group.floor, group.size)


def test_the_whole_model_is_ranked_so_that_layers_shrink_unevenly() -> None:
    cost, limits = chain_cost(), limits_of([*WIDTHS], [1, 1], [1, 1])
    scores = torch.cat([torch.full((6,), 1.0), torch.full((5,), 9.0)])
    keep = keep_by_size(scores, limits, cost, 0.5 * cost.dense, start=EVERYONE, groups=[0, 1])
    kept = kept_of(keep, limits)
    assert kept[0] < 6
    assert kept[1] == 5


def test_what_is_hidden_already_stays_hidden_and_counts() -> None:
    cost, limits = chain_cost(), limits_of([*WIDTHS], [1, 1], [1, 1])
    start = EVERYONE.clone()
    start[7:] = False
    keep = keep_by_size(torch.arange(11.0), limits, cost, 0.3 * cost.dense, start=start, groups=[0])
    assert not keep[7:].any()
    assert abs(float(cost.size(keep)) - 0.3 * cost.dense) <= float(cost.unit_costs()[0])


def test_unreachable_budgets_say_what_can_be_reached() -> None:
    cost, limits = chain_cost(), limits_of([*WIDTHS], [3, 2], [1, 1])
    smallest = float(cost.size(torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0])))
    check_reachable(limits, cost, smallest, "pruning_ratio=0.7", [0, 1])
    with pytest.raises(ConfigError, match=rf"pruning_ratio=0.9 asks for.*{smallest:.0f} of {cost.dense:.0f} are left"):
        check_reachable(limits, cost, smallest * 0.9, "pruning_ratio=0.9", [0, 1])
    with pytest.raises(ConfigError):
        check_reachable(limits, cost, smallest, "pruning_ratio=0.7", [0])  # the other group may not shrink
    elsewhere = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]).bool()  # unless a budget of its own makes it
    check_reachable(limits, cost, smallest, "pruning_ratio=0.7", [0], start=elsewhere)
