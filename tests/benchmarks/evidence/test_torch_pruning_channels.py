"""Torch-Pruning's own global ranking: the channels that are left, found by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from evidence_synthetic import problem
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.methods import METHODS
from evidence.nni_masks import CALIBRATION
from evidence.tuning import Budget, batches

PASSES = 24


@pytest.fixture(scope="module")
def given() -> Any:
    return problem()


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["torch-pruning magnitude", "torch-pruning taylor"])
def test_the_channels_left_are_the_first_in_one_ranking_of_all_layers(name: str, ratio: float, given: Any) -> None:
    """With a learning rate of 0 the weights that stay are dense ones."""
    magnitude = name.endswith("magnitude")
    found = METHODS[name](given, Budget(ratio, PASSES, 0.0)).model
    scores = channel_scores(given.dense, squares if magnitude else slopes_times_weights(given))
    widths = [found[0].out_features, found[3].out_features]
    threshold = torch.cat(scores).sort(descending=True).values[sum(widths) - 1]
    first, second = (torch.nonzero(score >= threshold).reshape(-1) for score in scores)
    assert [len(first), len(second)] == widths
    torch.testing.assert_close(found[0].weight, given.dense[0].weight[first])
    torch.testing.assert_close(found[3].weight, given.dense[3].weight[second][:, first])
    torch.testing.assert_close(found[6].weight, given.dense[6].weight[:, second])


def test_the_ratio_of_channels_is_the_one_nearest_to_the_budget_of_parameters(given: Any) -> None:
    scores = channel_scores(given.dense, squares)
    ranked = torch.cat(scores).sort(descending=True).values

    def size(kept: int) -> int:
        first, second = (int((score >= ranked[kept - 1]).sum()) for score in scores)
        return (12 + 1 + 2) * first + (first + 1 + 2) * second + (second + 1) * 2  # with batch norms and biases

    wanted = 0.4 * size(48)
    outcome = METHODS["torch-pruning magnitude"](given, Budget(0.6, PASSES, 0.0))
    nearest = min(range(2, 49), key=lambda kept: abs(size(kept) - wanted))
    assert outcome.model[0].out_features + outcome.model[3].out_features == nearest
    assert 1 - outcome.details["pruning_ratio"] == pytest.approx(nearest / 48, abs=1 / 48)


def channel_scores(dense: Any, of: Callable[[str, Tensor], Tensor]) -> list[Tensor]:
    """What a channel owns, summed: its row, its entry of the batch norm, the next layer's column; over its layer's mean."""
    values = {key: of(key, parameter.detach()) for key, parameter in dense.named_parameters()}
    scores = [
        values[f"{layer}.weight"].sum(1) + values[f"{layer + 1}.weight"] + values[f"{layer + 3}.weight"].sum(0)
        for layer in (0, 3)
    ]
    return [score / score.mean() for score in scores]


def squares(_: str, weight: Tensor) -> Tensor:
    return weight**2


def slopes_times_weights(given: Any) -> Callable[[str, Tensor], Tensor]:
    model: nn.Module = copy.deepcopy(given.dense).eval()
    loss = torch.stack([F.cross_entropy(model(x), y) for x, y, _ in batches(given, CALIBRATION, order=given.seed)])
    loss.mean().backward()
    slopes = {key: parameter.grad for key, parameter in model.named_parameters()}
    norms = ("1.weight", "4.weight")  # which the host's Taylor score leaves out
    return lambda key, weight: torch.zeros_like(weight) if key in norms else (weight * slopes[key]).abs()
