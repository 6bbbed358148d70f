"""The choice of a moment outside ``fit``: the best on validation comes back, with statistics that make it no worse."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from evidence_synthetic import problem

from evidence.moments import Moments
from evidence.records import judge
from fairprune_plugin import DegradationParity

KEEP = torch.ones(1, dtype=torch.bool)


@pytest.fixture(scope="module")
def given() -> Any:
    return problem()


def test_the_best_moment_comes_back(given: Any) -> None:
    model, moments = copy.deepcopy(given.dense), Moments(given)
    good = copy.deepcopy(model.state_dict())
    moments.offer(model, KEEP, 1)
    with torch.no_grad():
        model[6].bias[0] = 100.0  # one class for everybody: equal rates and no use
    moments.offer(model, KEEP, 2)
    moments.restore(model)
    assert all(torch.equal(value, good[key]) for key, value in model.state_dict().items())


def test_without_a_moment_nothing_is_restored(given: Any) -> None:
    model = copy.deepcopy(given.dense)
    Moments(given).restore(model)
    assert all(torch.equal(value, given.dense.state_dict()[key]) for key, value in model.state_dict().items())


def test_statistics_that_fit_nothing_are_measured_anew_and_good_ones_may_stay(given: Any) -> None:
    model = copy.deepcopy(given.dense)
    with torch.no_grad():
        model[1].running_mean.fill_(50.0)
    broken = judge(model, given)["validation"]["accuracy"]
    Moments(given).recalibrate(model)
    assert judge(model, given)["validation"]["accuracy"] > broken + 0.1
    assert float(model[1].running_mean.abs().max()) < 10


def test_a_look_at_training_data_leaves_the_random_state(given: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Moments(given).offer(copy.deepcopy(given.dense), KEEP, 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_constraint_relative_to_the_dense_model_is_judged_against_it(given: Any) -> None:
    relative = replace(given, constraint=DegradationParity(tolerance=0.05, groups=("a", "b")))
    model, moments = copy.deepcopy(given.dense), Moments(relative)
    good = copy.deepcopy(model.state_dict())
    moments.offer(model, KEEP, 1)  # the dense model itself: no degradation
    with torch.no_grad():
        model[6].weight.neg_()
    moments.offer(model, KEEP, 2)
    moments.restore(model)
    assert all(torch.equal(value, good[key]) for key, value in model.state_dict().items())
