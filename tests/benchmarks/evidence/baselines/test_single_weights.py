"""Single weights as units: which there are, and which go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evidence.baselines import ScoringContext
from evidence.baselines.single_weights import SingleWeights, random_weights
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.groups import Groups


def network() -> nn.Sequential:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    return nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def test_units_are_the_weights_of_layers_outside_the_ignored_ones() -> None:
    model = network()
    units = SingleWeights(model, 0.5, [model[4][2]])
    assert units.names == ("0", "4.0")
    assert units.weights.num_units == units.left() == 5 * 3 * 4 + 5 * 4
    assert SingleWeights(model, 0.5, [model[4]]).names == ("0",)
    with pytest.raises(ConfigError, match="nothing to prune"):
        SingleWeights(model, 0.5, [model])


@settings(max_examples=30)
@given(st.floats(0, 0.999), st.floats(0, 1))
def test_the_worst_go_and_every_layer_keeps_one(ratio: float, progress: float) -> None:
    units = SingleWeights(network(), ratio)
    total = units.weights.num_units
    scores = torch.arange(total, dtype=torch.float32).flip(0)  # the last layer has the lowest scores
    keep = units.project(scores, progress)
    layers = [keep[units.weights.of(index)] for index in range(len(units.names))]
    assert all(bool(layer.any()) for layer in layers)
    asked = int(total * ratio * progress + 1e-6)
    assert int((~keep).sum()) == min(asked, total - len(layers))
    free = torch.cat([keep[: units.weights.offsets[1]], *(layer[1:] for layer in layers[1:])])
    assert not bool(
        (~free[:-1] & free[1:]).any()
    )  # in falling order of the scores no hidden one comes before a kept one


def test_masks_of_nni_are_flat_masks() -> None:
    model = network()
    units = SingleWeights(model, 0.5, [model[4][2]])
    convolution, linear = torch.zeros(5, 3, 2, 2), torch.ones(4, 5)
    convolution[1, 2, 0, 1] = 1
    linear[3, 4] = 0
    keep = units.of_masks({"0": {"weight": convolution}, "4.0": {"weight": linear}})
    units.weights.set(keep)
    assert units.left() == 1 + 19
    assert bool(model[0].weight[1, 2, 0, 1] != 0)
    assert bool(model[4][0].weight[3, 4] == 0)
    with pytest.raises(ConfigError, match=r"a mask of 4\.0\.weight"):
        units.of_masks({"0": {"weight": convolution}})


def test_random_scores_follow_from_the_seed() -> None:
    units = SingleWeights(network(), 0.5)

    def scores(seed: int) -> torch.Tensor:
        return random_weights(ScoringContext(units.model, units.weights, [], Groups.parse(2), seed=seed))

    assert torch.equal(scores(3), scores(3))
    assert not torch.equal(scores(3), scores(4))
