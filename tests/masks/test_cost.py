"""The cost model: parameters of the network that is really sliced, and derivatives that are real differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairprune_plugin.masks.cost import CostEntry, CostModel, parameter_axes, parameter_entries
from fairprune_plugin.masks.groups import ChannelGroup
from fairprune_plugin.masks.masked_weights import MaskedWeights
from toy_networks import Chain, site


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def model_and_cost() -> tuple[Chain, CostModel]:
    model = Chain()
    weights = MaskedWeights(model.groups())
    return model, CostModel(parameter_entries(model.parameters(), weights), weights.num_units)


@given(
    st.lists(st.booleans(), min_size=6, max_size=6).filter(any),
    st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
)
def test_size_is_the_parameter_count_of_the_sliced_network(first: list[bool], second: list[bool]) -> None:
    model, cost = model_and_cost()
    keep = torch.tensor(first + second)
    assert float(cost.size(keep)) == pytest.approx(parameters_of(model.sliced(keep)), abs=1e-9)


def test_dense_size_and_fixed_part() -> None:
    model, cost = model_and_cost()
    assert cost.dense == pytest.approx(parameters_of(model))
    assert cost.fixed == 2  # the bias of the output layer
    assert float(cost.size(torch.zeros(11))) == cost.fixed


def test_unit_cost_is_what_leaves_with_the_unit() -> None:
    model, cost = model_and_cost()
    for unit, expected in enumerate(cost.unit_costs().tolist()):
        keep = torch.ones(11, dtype=torch.bool)
        keep[unit] = False
        assert expected == pytest.approx(parameters_of(model) - parameters_of(model.sliced(keep)))


def test_unit_costs_are_the_gradient_at_the_dense_model() -> None:
    _, cost = model_and_cost()
    step = 1e-6
    for unit, expected in enumerate(cost.unit_costs().tolist()):
        less = torch.ones(11, dtype=torch.float64)
        less[unit] -= step
        assert (cost.dense - float(cost.size(less))) / step == pytest.approx(expected, rel=1e-4)


def test_flattened_channels_and_grouped_units() -> None:
    """A unit that owns several positions of a dimension takes them all along."""
    consumer = nn.Linear(12, 5)
    flat = torch.arange(4).repeat_interleave(3)
    weights = MaskedWeights((ChannelGroup("g", 4, 1, (site(consumer.weight, 1, flat),), ()),))
    cost = CostModel(parameter_entries(consumer.parameters(), weights), 4)
    assert float(cost.size(torch.tensor([1, 0, 1, 1]))) == pytest.approx(9 * 5 + 5)
    assert cost.unit_costs().tolist() == pytest.approx([15.0] * 4)


def test_several_groups_along_one_dimension_as_after_a_concatenation() -> None:
    consumer = nn.Linear(5, 3, bias=False)
    one = ChannelGroup("one", 2, 1, (site(consumer.weight, 1, torch.arange(2)),), ())
    two = ChannelGroup("two", 3, 1, (site(consumer.weight, 1, torch.arange(3), torch.tensor([2, 3, 4])),), ())
    weights = MaskedWeights((one, two))
    axes = parameter_axes(weights)[id(consumer.weight)]
    assert axes[1].tolist() == [0, 1, 2, 3, 4]
    cost = CostModel(parameter_entries(consumer.parameters(), weights), 5)
    assert float(cost.size(torch.tensor([1, 0, 0, 1, 1]))) == pytest.approx(9)


def test_masked_and_carried_positions_of_one_dimension_count_once() -> None:
    fused = nn.Linear(3, 6, bias=False)
    group = ChannelGroup(
        "g",
        3,
        1,
        masked=(site(fused.weight, 0, torch.arange(3)),),
        carried=(site(fused.weight, 0, torch.arange(3), torch.tensor([3, 4, 5])),),
    )
    weights = MaskedWeights((group,))
    cost = CostModel(parameter_entries(fused.parameters(), weights), 3)
    assert float(cost.size(torch.tensor([1, 1, 0]))) == pytest.approx(12)


def test_a_model_without_units_costs_what_it_costs() -> None:
    cost = CostModel([CostEntry(7.0, ()), CostEntry(5.0, ())], 0)
    assert cost.dense == 12
    assert cost.unit_costs().tolist() == []
