"""What became of each parameter when channels went: the tensor that took its place, and which of its entries stayed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_networks import MLP, ResidualCNN, batches, images, prune_mlp, sgd, train
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from driving import SmallMLP, batches_for, drive, kept_of, small_pruner
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.removal.renewal import ParameterRenewal, Renewed, in_sequence, unchanged
from toy_networks import Chain


def cut(parameter: Tensor, positions: list[Tensor]) -> Tensor:
    """What stayed of its values."""
    for dim, kept in enumerate(positions):
        parameter = parameter.index_select(dim, kept)
    return parameter


def shrunk(chain: Chain, keep: Tensor) -> Chain:
    """In place, as a host does it: each layer gets smaller parameters."""
    small = chain.sliced(keep)
    for name, module in small.named_children():
        setattr(chain, name, module)
    return chain


def removed(chain: Chain, keep: Tensor) -> Renewed:
    """Hides channels, removes them, and returns what became of the parameters."""
    weights = MaskedWeights(chain.groups())
    weights.set(keep)
    renewal = ParameterRenewal(chain, weights)
    return renewal.complete(shrunk(chain, keep))


def mask(widths: tuple[int, int] = (6, 5)) -> st.SearchStrategy[Tensor]:
    """Of both groups; each keeps a channel."""
    group = [st.lists(st.booleans(), min_size=width, max_size=width).filter(any) for width in widths]
    return st.tuples(*group).map(lambda kept: torch.tensor([*kept[0], *kept[1]]))


@given(mask())
def test_every_parameter_leads_to_its_successor_and_the_entries_it_kept(keep: Tensor) -> None:
    chain = Chain()
    # Told apart by value; zeros stand for what is hidden, so that only what is carried may be compared below.
    with torch.no_grad():
        for number, parameter in enumerate(chain.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + 100.0 * (number + 1))
    before = dict(chain.named_parameters())
    values = {name: parameter.detach().clone() for name, parameter in before.items()}
    renewed = removed(chain, keep)
    after = dict(chain.named_parameters())
    assert {id(old) for old in renewed} == {id(old) for old in before.values()}
    for name, old in before.items():
        new, positions = renewed[old]
        assert new is after[name]
        assert [len(kept) for kept in positions] == list(new.shape)
        assert torch.equal(cut(values[name], positions), new), name


@given(st.data())
def test_two_removals_in_sequence_are_both_at_once(data: st.DataObject) -> None:
    first = data.draw(mask())
    widths = int(first[:6].sum()), int(first[6:].sum())
    second = data.draw(mask(widths))
    chain = Chain()
    olds = dict(chain.named_parameters())
    one = removed(chain, first)
    two = removed(chain, second)
    both = in_sequence(one, two)
    at_once = first.clone()
    at_once[first.nonzero().reshape(-1)] = second
    again = Chain()
    expected = dict(zip(olds, removed(again, at_once).values(), strict=True))
    for name, old in olds.items():
        new, positions = both[old]
        assert new is dict(chain.named_parameters())[name]
        for kept, wanted in zip(positions, expected[name][1], strict=True):
            assert torch.equal(kept, wanted), name


@given(mask())
def test_nothing_before_or_after_a_removal_changes_it(keep: Tensor) -> None:
    chain = Chain()
    start = unchanged(chain)
    for old, (new, positions) in start.items():
        assert new is old
        assert torch.equal(cut(old, positions), old)
    renewed = removed(chain, keep)
    for same in (in_sequence(start, renewed), in_sequence(renewed, unchanged(chain))):
        assert list(map(id, same)) == list(map(id, renewed))
        for old, (new, positions) in renewed.items():
            assert same[old][0] is new
            assert all(torch.equal(a, b) for a, b in zip(same[old][1], positions, strict=True))


def test_a_removal_of_something_else_cannot_follow() -> None:
    with pytest.raises(KeyError):
        in_sequence(unchanged(Chain()), unchanged(Chain()))


def test_frozen_parameters_are_frozen_again() -> None:
    """A host's new parameters are trained; those of a frozen layer must not be."""
    chain = Chain()
    for parameter in (chain.a.weight, chain.c.bias):
        parameter.requires_grad_(False)
    weights = MaskedWeights(chain.groups())
    weights.set(torch.arange(11) % 2 == 0)
    renewal = ParameterRenewal(chain, weights)
    shrunk(chain, weights.keep)
    assert all(parameter.requires_grad for parameter in chain.parameters())
    renewal.complete(chain)
    frozen = {name for name, parameter in chain.named_parameters() if not parameter.requires_grad}
    assert frozen == {"a.weight", "c.bias"}


# ---- under Torch-Pruning -----------------------------------------------------------------------------------


def renewal_by_the_host(model: nn.Module, pruner: BiFPPruner, data: Any) -> tuple[dict[str, Tensor], Renewed]:
    """Trains and removes; returns the parameters of before by name, and what became of them."""
    train(pruner, model, sgd(model), data)
    renewal, before = ParameterRenewal(model, pruner.engine.weights), dict(model.named_parameters())
    pruner.step()
    return before, renewal.complete(model)


@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_values_stay_with_their_channels(kind: str) -> None:
    """Over batch norms and a residual connection; what the mask hides are columns, and rows go with them."""
    if kind == "mlp":
        model: nn.Module = MLP()
        pruner, data = prune_mlp(model, pruning_ratio=0.5, self_check=False, total_steps=6), batches(6)
    else:
        model, data = ResidualCNN(), batches(6, image=True)
        pruner = BiFPPruner(model, images(), pruning_ratio=0.5, ignored_layers=[model.fc], total_steps=6)
    before, renewed = renewal_by_the_host(model, pruner, data)
    after = dict(model.named_parameters())
    smaller = 0
    for name, old in before.items():
        new, positions = renewed[old]
        assert new is after[name]
        assert torch.equal(cut(old.detach(), positions), new), name
        smaller += new.numel() < old.numel()
    assert smaller >= len(before) - 1  # all but the output's bias


def test_optimizer_state_is_cut_like_the_weights() -> None:
    model = SmallMLP()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner = small_pruner(model, total_steps=8)
    drive(pruner, model, optimizer, batches_for(model, 8))
    rows, columns = kept_of(pruner, "fc2"), kept_of(pruner, "fc1")
    moment = optimizer.state[model.fc2.weight]["exp_avg"][rows][:, columns].clone()
    pruner.step()
    fresh = pruner.rebuild_optimizer(optimizer)
    assert torch.equal(fresh.state[model.fc2.weight]["exp_avg"], moment)
    assert float(fresh.state[model.fc2.weight]["step"]) == float(optimizer.state_dict()["state"][2]["step"])
