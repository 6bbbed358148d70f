"""Masked weights against a naive model that keeps all of θ; real optimizers do not move what is hidden."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairprune_plugin.errors import TrainingStateError
from fairprune_plugin.masks.groups import ChannelGroup
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.masks.norms import MaskedNorms
from toy_networks import Chain, site

UNITS = 4


class Naive:
    """θ of every parameter in full, and which units sit at which positions of which dimension."""

    def __init__(self, parameters: list[nn.Parameter], sites: list[tuple[int, int, bool, torch.Tensor]]) -> None:
        self.theta = [p.detach().clone() for p in parameters]
        self.sites = sites

    def factor(self, number: int, keep: torch.Tensor, *, masked_only: bool) -> torch.Tensor:
        out = torch.ones_like(self.theta[number])
        for parameter, dim, masked, unit in self.sites:
            if parameter == number and (masked or not masked_only):
                kept = torch.tensor([1.0 if u < 0 else float(keep[u]) for u in unit.tolist()])
                out = out * kept.reshape([-1 if d == dim else 1 for d in range(out.dim())])
        return out

    def move(self, noise: list[torch.Tensor], keep: torch.Tensor) -> None:
        for number, change in enumerate(noise):
            free = self.factor(number, keep, masked_only=False).bool()
            self.theta[number] = torch.where(free, self.theta[number] + change, self.theta[number])

    def live(self, number: int, keep: torch.Tensor) -> torch.Tensor:
        return self.theta[number] * self.factor(number, keep, masked_only=True)


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[tuple[int, ...], dict[tuple[int, bool], list[int]]]]:
    """Shapes of 1 to 3 parameters; for each (dimension, masked?) that units cross, the unit of each position."""
    out = []
    for _ in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
        keys = draw(
            st.lists(st.tuples(st.integers(0, len(shape) - 1), st.booleans()), min_size=1, max_size=4, unique=True)
        )
        out.append((shape, {k: [draw(st.integers(-1, UNITS - 1)) for _ in range(shape[k[0]])] for k in keys}))
    return out


STEPS = st.lists(st.lists(st.booleans(), min_size=UNITS, max_size=UNITS) | st.just("step"), min_size=1, max_size=10)


@settings(max_examples=200)
@given(layouts(), STEPS, st.integers(0, 1000))
def test_any_sequence_of_masks_and_steps_is_that_of_the_naive_model(layout, steps, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape, _ in layout]
    sites = [
        (number, dim, masked, torch.tensor(unit))
        for number, (_, crossed) in enumerate(layout)
        for (dim, masked), unit in crossed.items()
    ]

    def channel_sites(masked: bool) -> tuple:
        return tuple(
            site(parameters[number], dim, unit[unit >= 0], (unit >= 0).nonzero().reshape(-1))
            for number, dim, is_masked, unit in sites
            if is_masked is masked
        )

    weights = MaskedWeights((ChannelGroup("g", UNITS, 1, channel_sites(True), channel_sites(False)),))
    naive = Naive(parameters, sites)
    keep = torch.ones(UNITS, dtype=torch.bool)
    for step in steps:
        if step == "step":
            noise = [torch.randn(p.shape, generator=generator) for p in parameters]
            with torch.no_grad():
                for parameter, change in zip(parameters, noise, strict=True):
                    parameter.add_(change)  # as momentum and weight decay do: hidden weights move as well
            weights.reapply()
            naive.move(noise, keep)
        else:
            keep = torch.tensor(step)
            weights.set(keep)
        for number, parameter in enumerate(parameters):
            assert torch.equal(parameter.detach(), naive.live(number, keep))
    by_parameter = {id(masked.parameter): masked for masked in weights.parameters}
    for number, parameter in enumerate(parameters):
        if id(parameter) in by_parameter:
            assert torch.equal(by_parameter[id(parameter)].full_values(), naive.theta[number])
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    expected = [p.grad * naive.factor(i, keep, masked_only=True) for i, p in enumerate(parameters)]
    weights.mask_gradients()
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def keep_of(*hidden: int, units: int = 11) -> torch.Tensor:
    keep = torch.ones(units, dtype=torch.bool)
    keep[list(hidden)] = False
    return keep


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("hidden", [(0,), (2, 5), (7, 10), (1, 3, 6, 8)], ids=str)
def test_masked_network_is_the_sliced_network(hidden: tuple[int, ...], training: bool) -> None:
    model, x = Chain().train(training), torch.randn(16, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    small = model.sliced(keep_of(*hidden))
    weights = MaskedWeights(model.groups())
    norms = MaskedNorms(weights)
    weights.set(keep_of(*hidden))
    norms.refresh()
    torch.testing.assert_close(model(x), small(x))


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd-momentum-decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_hidden_channels_rest_and_return_as_they_left(make) -> None:
    model = Chain(norms=False)
    optimizer, weights = make(list(model.parameters())), MaskedWeights(model.groups())

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().sum().backward()
            weights.mask_gradients()
            optimizer.step()
            weights.reapply()

    train(3)  # momentum is under way
    left = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights.set(keep_of(2, 6))  # channel 2 of the first layer, channel 0 of the second
    train(5)
    assert (model.b.weight[:, 2] == 0).all()
    assert (model.c.weight[:, 0] == 0).all()
    assert torch.equal(model.a.weight[2], left["a.weight"][2])
    assert model.a.bias[2] == left["a.bias"][2]
    assert torch.equal(model.b.weight[0, [0, 1, 3, 4, 5]], left["b.weight"][0, [0, 1, 3, 4, 5]])
    assert not torch.equal(model.a.weight[3], left["a.weight"][3]), "the others learn"
    weights.set(keep_of())
    assert torch.equal(model.b.weight[0], left["b.weight"][0])
    assert torch.equal(model.b.weight[:, 2], left["b.weight"][:, 2])
    assert torch.equal(model.c.weight[:, 0], left["c.weight"][:, 0])
    moved = model.a.weight[2].clone()
    train(1)
    assert not torch.equal(model.a.weight[2], moved), "a channel that returned learns again"


def test_a_hidden_channel_still_gets_a_score_gradient() -> None:
    """The gradient of a hidden consumer column lives, because its producers still run."""
    model = Chain(norms=False)
    weights = MaskedWeights(model.groups())
    weights.set(keep_of(2))
    model(torch.randn(8, 4)).square().sum().backward()
    assert model.b.weight.grad is not None
    assert model.b.weight.grad[:, 2].abs().max() > 0
    weights.mask_gradients()
    assert (model.b.weight.grad[:, 2] == 0).all()


def test_parameters_without_gradient_and_models_without_groups() -> None:
    weights = MaskedWeights(Chain().groups())
    weights.mask_gradients()
    weights.reapply()
    empty = MaskedWeights(())
    empty.set(torch.ones(0, dtype=torch.bool))
    assert empty.num_units == 0


def test_the_mask_is_a_copy_and_lies_group_after_group() -> None:
    weights = MaskedWeights(Chain().groups())
    keep = keep_of(0)
    weights.set(keep)
    keep[1] = False
    assert weights.keep.tolist() == keep_of(0).tolist()
    assert (weights.of(0), weights.of(1)) == (slice(0, 6), slice(6, 11))


def test_parameter_objects_and_memory_stay() -> None:
    model = Chain()
    before = [(id(p), p.data_ptr()) for p in model.parameters()]
    weights = MaskedWeights(model.groups())
    weights.set(keep_of(1, 7))
    weights.set(keep_of(2))
    assert [(id(p), p.data_ptr()) for p in model.parameters()] == before


def test_a_final_mask_holds_nothing_and_shows_nothing_again() -> None:
    weights = MaskedWeights(Chain().groups())
    weights.set(keep_of(2, 6))
    assert any(parameter.held is not None for parameter in weights.parameters)
    weights.finish()
    assert all(parameter.held is None for parameter in weights.parameters)
    weights.set(keep_of(2, 6))
    weights.set(keep_of(2, 3, 6))  # more may go
    with pytest.raises(TrainingStateError, match="cannot be shown again"):
        weights.set(keep_of(2, 3))
    assert weights.keep.tolist() == keep_of(2, 3, 6).tolist()
    weights.restore(keep_of(2), [None] * len(weights.parameters))
    weights.set(keep_of())  # a state from before may do so
    assert bool(weights.keep.all())


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed"])
def test_the_mask_reaches_every_memory_layout(layout: str) -> None:
    """A product with a row of factors is taken where the weights lie one after the other, and a broadcast elsewhere."""
    weight = torch.randn(6, 4, 3, 3)
    if layout == "channels-last":
        weight = weight.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    parameter = nn.Parameter(weight)
    weights = MaskedWeights((ChannelGroup("g", 4, 1, (site(parameter, 1, torch.arange(4)),), ()),))
    weights.set(torch.tensor([True, False, True, False]))
    with torch.no_grad():
        parameter.add_(1.0)
    parameter.grad = torch.ones_like(parameter)
    weights.reapply()
    weights.mask_gradients()
    assert bool((parameter[:, [1, 3]] == 0).all())
    assert bool((parameter.grad[:, [1, 3]] == 0).all())
    assert bool((parameter.grad[:, [0, 2]] == 1).all())
    torch.testing.assert_close(parameter[:, [0, 2]].detach(), weight[:, [0, 2]])
