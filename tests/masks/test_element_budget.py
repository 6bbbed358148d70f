"""Budgets in weights: NNI's counting, bounds of members, and thresholds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.masks.element_budget import Member, hide_below, hide_by_elements, worst


@given(values=st.lists(st.integers(0, 4), min_size=1, max_size=20), count=st.integers(0, 20))
def test_worst_is_the_beginning_of_a_stable_order(values: list[int], count: int) -> None:
    count = min(count, len(values))
    found = worst(torch.tensor(values, dtype=torch.float32), count)
    order = sorted(range(len(values)), key=lambda index: values[index])[:count]
    assert found.nonzero().reshape(-1).tolist() == sorted(order)


def test_the_worst_go() -> None:
    keep = torch.ones(6, dtype=torch.bool)
    hide_by_elements(keep, torch.tensor([5.0, 1, 4, 2, 6, 3]), [Member(slice(0, 6), 1, 5)], 3)
    assert keep.tolist() == [True, False, True, False, True, False]


def test_only_the_slice_is_touched() -> None:
    keep = torch.ones(6, dtype=torch.bool)
    hide_by_elements(keep, torch.zeros(6), [Member(slice(2, 4), 10, 2)], 100)
    assert keep.tolist() == [True, True, False, False, True, True]


def test_a_shared_budget_counts_weights_not_units() -> None:
    """Two layers of 3 units, of 1 and 10 weights: a budget of 12 holds the expensive worst unit and two cheap ones."""
    members = [Member(slice(0, 3), 1, 2), Member(slice(3, 6), 10, 2)]
    keep = torch.ones(6, dtype=torch.bool)
    hide_by_elements(keep, torch.tensor([2.0, 3, 9, 1, 8, 7]), members, 12)
    assert keep.tolist() == [False, False, True, False, True, True]


def test_cost_exponent_divides_the_scores() -> None:
    members = [Member(slice(0, 2), 1, 1), Member(slice(2, 4), 100, 1)]
    scores = torch.tensor([1.0, 9, 5, 9])
    for exponent, gone in ((0.0, 0), (0.5, 2)):
        keep = torch.ones(4, dtype=torch.bool)
        hide_by_elements(keep, scores, members, 100, cost_exponent=exponent)
        assert not keep[gone]


@given(
    scores=st.lists(st.floats(0, 1), min_size=12, max_size=12),
    budget=st.integers(0, 60),
    least=st.integers(0, 3),
    most=st.integers(3, 5),
)
def test_bounds_and_budget_hold(scores: list[float], budget: int, least: int, most: int) -> None:
    members = [Member(slice(0, 6), 2, most, least), Member(slice(6, 12), 5, most, least)]
    keep = torch.ones(12, dtype=torch.bool)
    hide_by_elements(keep, torch.tensor(scores), members, budget)
    hidden = [int((~keep[member.units]).sum()) for member in members]
    assert all(least <= count <= most for count in hidden)
    assert sum(count * member.grain for count, member in zip(hidden, members, strict=True)) <= max(budget, 7 * least)
    for member in members:
        values = torch.tensor(scores)[member.units]
        if 0 < int(keep[member.units].sum()) < 6:
            assert values[keep[member.units]].min() >= values[~keep[member.units]].max()


def test_threshold_is_relative_to_the_mean() -> None:
    scores = torch.tensor([0.0, 1, 2, 9])  # mean 3
    for scale in (1.0, 1e-6):
        keep = torch.ones(4, dtype=torch.bool)
        hide_below(keep, scores * scale, Member(slice(0, 4), 1, 3), 0.5)
        assert keep.tolist() == [False, False, True, True]


def test_threshold_keeps_to_the_bounds() -> None:
    scores = torch.tensor([0.0, 1, 2, 9])
    for member, hidden in ((Member(slice(0, 4), 1, 1), 1), (Member(slice(0, 4), 1, 3, 3), 3)):
        keep = torch.ones(4, dtype=torch.bool)
        hide_below(keep, scores, member, 0.5)
        assert int((~keep).sum()) == hidden
