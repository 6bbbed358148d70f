"""What is trained beside the model is found, saved and the same on all ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairprune_plugin.distributed import ALONE
from fairprune_plugin.engine.run.trained_beside import (
    average_gradients,
    load_loss_state,
    load_parameters,
    loss_state,
    parameters_beside,
    shapes_of_loss,
    share_parameters,
)


class Loss(nn.Module):
    """Parameters, a buffer, a value that is no tensor, and the model itself."""

    def __init__(self, model: nn.Module, calls: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2) * calls)
        self.register_buffer("mean", torch.zeros(()))
        self.student = model
        self.calls = calls

    def get_extra_state(self) -> int:
        return self.calls

    def set_extra_state(self, state: int) -> None:
        self.calls = state


class TwoRanks:
    """This rank and another one, whose tensors are ones."""

    size = 2

    def __init__(self, *, has_gradient: bool = True) -> None:
        self.has_gradient = has_gradient

    def any(self, flag: bool) -> bool:
        return flag or self.has_gradient

    def mean(self, tensor: Tensor) -> Tensor:
        return (tensor + 1) / 2

    def from_first(self, tensor: Tensor) -> Tensor:
        return torch.ones_like(tensor)


def test_parameters_of_the_optimizer_that_are_none_of_the_models() -> None:
    model, loss, free = nn.Linear(2, 2), nn.Linear(3, 1), torch.zeros(4, requires_grad=True)
    groups = [{"params": [free, model.weight]}, {"params": [*loss.parameters(), model.bias]}]
    found = parameters_beside(torch.optim.SGD(groups, lr=0.1), model)
    assert [id(p) for p in found] == [id(free), id(loss.weight), id(loss.bias)]
    assert parameters_beside(torch.optim.SGD(model.parameters(), lr=0.1), model) == []


def test_the_state_of_a_loss_is_without_the_model_and_comes_back() -> None:
    model = nn.BatchNorm1d(2)
    parameters, rest = loss_state(Loss(model), model)
    assert list(parameters) == ["scale"]
    assert list(rest) == ["mean", "_extra_state"]
    other_model = nn.BatchNorm1d(2)
    other_model.weight.data.fill_(7.0)
    other = Loss(other_model, calls=1)
    assert shapes_of_loss(other, other_model) == {"scale": [2], "mean": [], "_extra_state": None}
    load_loss_state(other, {**parameters, **rest})
    assert (other.calls, other.scale.tolist(), other_model.weight.tolist()) == (3, [3.0, 3.0], [7.0, 7.0])


@pytest.mark.parametrize("function", [nn.functional.cross_entropy, lambda logits, y: logits.sum()])
def test_a_function_has_no_state(function: Any) -> None:
    assert loss_state(function, nn.Linear(1, 1)) == ({}, {})
    load_loss_state(function, {})


def test_values_are_put_back_in_place() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    load_parameters([parameter], [torch.ones(2)])
    assert parameter.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="argument"):
        load_parameters([parameter], [])


def test_ranks_begin_with_the_first_ones_values_and_average_their_gradients() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    parameters[0].grad = torch.full((2,), 3.0)
    average_gradients(parameters, TwoRanks())  # type: ignore[arg-type]
    assert [p.grad.tolist() for p in parameters if p.grad is not None] == [[2.0, 2.0], [0.5, 0.5]]
    parameters[1].grad = None
    average_gradients(parameters[1:], TwoRanks(has_gradient=False))  # type: ignore[arg-type]
    assert parameters[1].grad is None, "an optimizer passes over it, as with one process"
    share_parameters(parameters, TwoRanks())  # type: ignore[arg-type]
    assert [p.tolist() for p in parameters] == [[1.0, 1.0]] * 2


def test_one_process_is_left_alone() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    share_parameters([parameter], ALONE)
    average_gradients([parameter], ALONE)
    assert parameter.grad is None
