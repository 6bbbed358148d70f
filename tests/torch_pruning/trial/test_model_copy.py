"""A copy for the self check is what ``copy.deepcopy`` makes, but for weights that nobody writes to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from host_networks import MLP, ResidualCNN, images, rows
from torch import Tensor, nn

from fairprune_plugin.torch_pruning.trial.model_copy import copied_model


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
