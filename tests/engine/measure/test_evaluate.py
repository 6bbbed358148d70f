"""Passes without training leave modes, gradients and momenta as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fairprune_plugin.engine.measure.evaluate import evaluate, mode, recalibrate_batch_norm
from fairprune_plugin.errors import DataError
from fairprune_plugin.fairness.constraints import AccuracyParity
from fairprune_plugin.fairness.lagrangian import Lagrangian


def mixed_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()  # a frozen batch norm in a model in training
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def batches(count: int = 3) -> list[tuple[torch.Tensor, ...]]:
    return [(torch.randn(10, 3), torch.randint(2, (10,)), torch.randint(2, (10,))) for _ in range(count)]


@pytest.mark.parametrize("training", [True, False])
def test_mode_comes_back_even_after_an_error(training: bool) -> None:
    model = mixed_model()
    before = modes(model)

    def fail() -> None:
        with mode(model, training=training):
            assert modes(model) == [training] * 5
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert modes(model) == before


def test_evaluation_is_that_of_eval_mode_and_leaves_no_trace() -> None:
    model, data = mixed_model().train(), batches()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = evaluate(model, data, Lagrangian(AccuracyParity(0.1)), split="test")
    assert modes(model) == [True] * 5
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    right = torch.cat([model(x).argmax(1) == y for x, y, _ in data]).double()
    assert result.accuracy == pytest.approx(float(right.mean()))
    assert result.samples == 30


def test_batches_without_samples_contribute_nothing() -> None:
    model, data = mixed_model().train(), batches()
    empty = tuple(part[:0] for part in data[0])
    among = [empty, data[0], empty, *data[1:], empty]
    expected, got = (evaluate(model, d, Lagrangian(AccuracyParity(0.1)), split="test") for d in (data, among))
    assert (got.accuracy, got.rates, got.verdicts) == (expected.accuracy, expected.rates, expected.verdicts)
    states = []
    for loader in (data, among):
        recalibrate_batch_norm(model, loader, batches=3)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.raises(DataError, match="test loader is empty"):
        evaluate(model, [empty], Lagrangian(AccuracyParity(0.1)), split="test")


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(DataError, match="test loader is empty"):
        evaluate(mixed_model(), [], Lagrangian(None), split="test")


def test_recalibration_is_the_mean_over_batches() -> None:
    model, data = mixed_model(), batches(4)
    before, momentum = modes(model), model[1].momentum
    model[1].running_mean.fill_(100.0)
    recalibrate_batch_norm(model, data, batches=3)
    hidden = [model[0](x).detach() for x, _, _ in data[:3]]
    torch.testing.assert_close(model[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert (modes(model), model[1].momentum) == (before, momentum)


def test_recalibration_of_a_model_without_batch_norm_reads_no_data() -> None:
    def explode() -> object:
        raise AssertionError("read")
        yield

    recalibrate_batch_norm(nn.Linear(3, 2), explode(), batches=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_half_a_pass_of_fresh_statistics_leaves_the_old_ones(error: type[BaseException]) -> None:
    model = mixed_model()
    model[1].running_mean.fill_(3.0)
    model[1].momentum = 0.2
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def broken() -> Iterator[tuple[torch.Tensor, ...]]:
        yield batches(1)[0]
        raise error

    with pytest.raises(error):
        recalibrate_batch_norm(model, broken(), batches=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.2
