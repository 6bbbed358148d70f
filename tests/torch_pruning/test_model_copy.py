"""A copy for the self check is what ``copy.deepcopy`` makes, but for weights that nobody writes to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from host_networks import MLP, ResidualCNN, images, rows
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fairprune_plugin.torch_pruning.model_copy import copied_model


class Knotted(nn.Module):
    """Layers that refer to each other and to containers outside of torch's own, and one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.settings: dict[str, Any] = {"layers": [self.first, self.second], "seen": []}
        self.kept = self.settings["seen"]
        self.activate = self.squashed
        self.first.owner = [self]

    def squashed(self, x: Tensor) -> Tensor:
        self.kept.append(len(x))
        return x.tanh()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.settings["layers"]:
            x = self.activate(layer(x))
        return x


class CopiesItself(nn.Linear):
    """Its own ``__deepcopy__`` leaves a mark."""

    marked = False

    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesItself:
        twin = CopiesItself(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        twin.marked = True
        return twin


def copied(model: nn.Module, *, written: bool = True) -> Any:
    return copied_model(model, lambda parameter: written, {})


def memory(model: nn.Module) -> set[int]:
    return {parameter.data_ptr() for parameter in model.parameters()}


@pytest.mark.parametrize(("build", "example"), [(MLP, rows), (ResidualCNN, images), (Knotted, rows)])
@pytest.mark.parametrize("written", [False, True])
def test_a_copy_computes_the_same_and_is_another_model(build: Any, example: Any, written: bool) -> None:
    model = build().eval()
    twin, deep = copied(model, written=written), copy.deepcopy(model)
    assert torch.equal(twin(example()), model(example()))
    assert [(name, type(module)) for name, module in twin.named_modules()] == [
        (name, type(module)) for name, module in deep.named_modules()
    ]
    assert all(
        vars(module).keys() == vars(other).keys() for module, other in zip(twin.modules(), deep.modules(), strict=True)
    )
    assert not set(twin.modules()) & set(model.modules())
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    assert (memory(twin) == memory(model)) is not written
    assert written is not bool(memory(twin) & memory(model))
    buffers = {buffer.data_ptr() for buffer in model.buffers()}
    assert not buffers & {buffer.data_ptr() for buffer in twin.buffers()}
    assert all(module.training is False for module in twin.modules())


def test_parameters_that_are_written_to_are_chosen_one_by_one() -> None:
    model = MLP()
    model.a.weight.requires_grad_(False)
    twin: Any = copied_model(model, lambda parameter: parameter is model.b.weight, {})
    with torch.no_grad():
        twin.b.weight.zero_()
    assert model.b.weight.abs().min() > 0
    assert twin.a.weight.data_ptr() == model.a.weight.data_ptr()
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]


def test_what_hangs_together_hangs_together_in_the_copy() -> None:
    model = Knotted()
    model(rows())
    twin = copied(model)
    assert twin.first.weight is twin.second.weight
    assert twin.settings["layers"] == [twin.first, twin.second]
    assert twin.kept is twin.settings["seen"]
    assert twin.kept == model.kept
    assert twin.first.owner == [twin]
    twin(rows())
    assert len(twin.kept) == 2 * len(model.kept)
    fresh = copied(Knotted())
    assert fresh.kept == []
    assert fresh.kept is fresh.settings["seen"]


def test_hooks_are_copied_and_new_ones_stay_apart() -> None:
    model, calls = MLP(), []
    model.a.register_forward_hook(lambda module, *_: calls.append(module))
    twin = copied(model)
    model.b.register_forward_hook(lambda module, *_: calls.append(module))
    twin(rows())
    assert calls == [twin.a]
    twin.fc.register_forward_hook(lambda module, *_: calls.append(module))
    model(rows())
    assert calls == [twin.a, model.a, model.b]


def test_layers_that_know_how_to_be_copied_are_asked() -> None:
    model = nn.Sequential(nn.Linear(6, 4), CopiesItself(4, 2), parametrizations.orthogonal(nn.Linear(2, 2)))
    twin = copied(model)
    assert twin[1].marked
    assert type(twin[2]) is type(copy.deepcopy(model)[2])
    assert torch.allclose(twin(rows()), model(rows()))


class WritesItsState(nn.Linear):
    """Its state is made for the copy: containers that nobody else holds."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "fresh": {}, "other": []}


def test_a_state_that_is_made_for_the_copy_lives_as_long_as_the_memo() -> None:
    model, memo = nn.Sequential(*(WritesItsState(2, 2) for _ in range(50))), {}
    twin: Any = copied_model(model, lambda parameter: True, memo)
    containers = [getattr(layer, name) for layer in twin for name in ("fresh", "other")]
    assert [type(container) for container in containers] == [dict, list] * 50
    assert len({id(container) for container in containers}) == 100
    assert copy.deepcopy([{}, []], memo) == [{}, []]


def test_what_cannot_be_copied_is_still_not_copied() -> None:
    model: Any = nn.Linear(2, 2)
    model.cached = model.weight * 2
    with pytest.raises(RuntimeError, match="graph leaves"):
        copied(model)


def test_the_memo_knows_the_copies() -> None:
    model, memo = Knotted(), {}
    twin = copied_model(model, lambda parameter: True, memo)
    bound = copy.deepcopy(model.squashed, memo)
    assert bound.__self__ is twin
