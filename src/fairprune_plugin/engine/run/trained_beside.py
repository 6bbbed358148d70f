"""What is trained beside the model: parameters that the optimizer holds and the model does not, such as those of a task
loss, and whatever else that loss keeps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...distributed import Ranks


def parameters_beside(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[Tensor]:
    """Parameters of the optimizer that are none of the model's, in its order."""
    own = {id(parameter) for parameter in model.parameters()}
    return [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]


def loss_state(task_loss: Any, model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state of a task loss that is a module, less what is the model's: its parameters, and the rest, of which every rank
    has its own. Empty for a function."""
    if not isinstance(task_loss, nn.Module):
        return {}, {}
    models = {id(tensor) for tensor in chain(model.parameters(), model.buffers())}
    parameters = dict(task_loss.named_parameters(remove_duplicate=False))
    tensors = {**parameters, **dict(task_loss.named_buffers(remove_duplicate=False))}
    state = {
        name: value
        for name, value in task_loss.state_dict().items()
        if name not in tensors or id(tensors[name]) not in models
    }
    return (
        {name: value for name, value in state.items() if name in parameters},
        {name: value for name, value in state.items() if name not in parameters},
    )


def shapes_of_loss(task_loss: Any, model: nn.Module) -> dict[str, list[int] | None]:
    """What a state of a task loss must agree with; ``None`` for what is no tensor."""
    parameters, rest = loss_state(task_loss, model)
    return {
        name: list(value.shape) if isinstance(value, Tensor) else None for name, value in {**parameters, **rest}.items()
    }


def load_loss_state(task_loss: Any, state: dict[str, Any]) -> None:
    """Puts both parts of :func:`loss_state` back."""
    if isinstance(task_loss, nn.Module):
        task_loss.load_state_dict(state, strict=False)  # what is the model's is not in it


@torch.no_grad()
def load_parameters(parameters: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    """Puts values back, in place."""
    for parameter, value in zip(parameters, saved, strict=True):
        parameter.copy_(value)


@torch.no_grad()
def share_parameters(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """The first rank's values on all of them, as data parallelism does with the model's when it begins."""
    if ranks.size > 1:
        for parameter in parameters:
            parameter.copy_(ranks.from_first(parameter))


@torch.no_grad()
def average_gradients(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """What data parallelism does for the parameters of the model, and only for them."""
    if ranks.size > 1:
        for parameter in parameters:
            if ranks.any(parameter.grad is not None):
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = ranks.mean(own)
