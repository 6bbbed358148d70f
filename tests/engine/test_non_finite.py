"""Batches with NaN or infinity: which gradients are refused, and what is left of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairprune_plugin.engine.non_finite import LOOKED_AT, NonFiniteBatches, some_of_each_row
from fairprune_plugin.engine.trained_model import TrainedModel
from fairprune_plugin.errors import NonFiniteError
from fairprune_plugin.fairness.constraints import EqualOpportunity
from fairprune_plugin.fairness.lagrangian import Lagrangian


def refuser() -> tuple[NonFiniteBatches, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    lagrangian = Lagrangian(EqualOpportunity(tolerance=0.05, groups=("a", "b")))
    lagrangian.plan(10)
    return NonFiniteBatches(TrainedModel(model, lagrangian.ranks), lagrangian), model


def backward(batches: NonFiniteBatches, model: nn.Module) -> list[Tensor]:
    """A counted batch and its gradients."""
    x, y, s = torch.randn(8, 3), torch.arange(8) % 2, torch.arange(8) // 4
    batches.lagrangian.loss(model(x), y, s).backward()
    return batches.trained.gradients()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e38], ids=str)
@pytest.mark.parametrize("where", ["0.weight", "0.bias", "1.weight", "2.bias"])
def test_a_gradient_that_is_no_number_or_too_large_to_square_is_refused(where: str, value: float) -> None:
    batches, model = refuser()
    gradients = backward(batches, model)
    dict(model.named_parameters())[where].grad.fill_(value)
    with pytest.raises(NonFiniteError, match="gradient became NaN or infinite at training step 7"):
        batches.refuse_gradients(gradients, 7)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_of_a_refused_batch_neither_counts_nor_running_statistics_are_left() -> None:
    batches, model = refuser()
    backward(batches, model)
    batches.buffers.remember()
    counts = {key: str(value) for key, value in batches.lagrangian.state_dict().items()}
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    gradients = backward(batches, model)
    assert any(not torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
    gradients[0].fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        batches.refuse_gradients(gradients, 0)
    assert {key: str(value) for key, value in batches.lagrangian.state_dict().items()} == counts
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def test_good_gradients_are_left_alone() -> None:
    batches, model = refuser()
    gradients = backward(batches, model)
    before = [gradient.clone() for gradient in gradients]
    assert batches.refuse_gradients(gradients, 0) is None
    assert bool(batches.all_finite(gradients))
    assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_under_a_loss_scaler_a_bad_gradient_is_told_and_not_refused(value: float) -> None:
    batches, model = refuser()
    gradients = backward(batches, model)
    gradients[2].reshape(-1)[-1] = value
    assert not bool(batches.all_finite(gradients))
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_was_bad_is_made_harmless_without_a_look() -> None:
    batches, model = refuser()
    gradients = backward(batches, model)
    batches.buffers.remember()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    gradients = backward(batches, model)
    gradients[0].fill_(float("nan"))
    batches.make_harmless(torch.tensor(False))
    assert all(not gradient.any() for gradient in batches.trained.gradients())
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def test_a_gradient_that_is_not_finite_is_found_in_a_part_of_a_large_one() -> None:
    wide = torch.nn.Linear(2 * LOOKED_AT // 4, 4)
    delta = torch.tensor([1.0, float("inf"), 1.0, 1.0])
    gradient = delta[:, None] * torch.randn(1, wide.in_features)
    part = some_of_each_row(gradient)
    assert part.numel() <= LOOKED_AT < gradient.numel()
    assert not bool(torch.isfinite(part.sum()))


@pytest.mark.parametrize("rows", [5, LOOKED_AT], ids=["small", "large"])
def test_sparse_gradients_are_looked_at_too(rows: int) -> None:
    model = nn.Sequential(nn.Embedding(rows, 4, sparse=True), nn.Linear(4, 2))
    lagrangian = Lagrangian(EqualOpportunity(tolerance=0.05, groups=("a", "b")))
    lagrangian.plan(10)
    batches = NonFiniteBatches(TrainedModel(model, lagrangian.ranks), lagrangian)
    lagrangian.loss(
        model(torch.tensor([1, 2, 1, 3])), torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1])
    ).backward()
    gradients = batches.trained.gradients()
    assert gradients[0].is_sparse
    assert batches.refuse_gradients(gradients, 0) is None
    gradients[0]._values()[1, 2] = float("nan")
    assert not bool(batches.all_finite(gradients))
    with pytest.raises(NonFiniteError):
        batches.refuse_gradients(gradients, 0)
    model[0].weight.grad = gradients[0]
    batches.make_harmless(torch.tensor(False))
    assert not gradients[0].to_dense().any()
