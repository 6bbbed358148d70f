"""Surrogates: closed-form values, bounds of the indicator, and the binary identity sigmoid = probability."""

from __future__ import annotations

import math

import pytest
import torch

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.outputs import Outputs
from fairprune_plugin.fairness.surrogates import SURROGATES, surrogate_indicator

MARGINS = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], dtype=torch.float64)
CLOSED_FORM = {
    "sigmoid": lambda m: 1 / (1 + math.exp(-m)),
    "logistic": lambda m: 1 - math.log2(1 + math.exp(-m)),
    "hinge": lambda m: min(1.0, m),
    "linear": lambda m: (1 + m) / 2,
    "probability": lambda m: 1 / (1 + math.exp(-m)),
    "cross_entropy": lambda m: 1 - math.log(1 + math.exp(-m)),
}


def binary(margins: torch.Tensor) -> Outputs:
    return Outputs.parse(margins, torch.ones(len(margins)))


@pytest.mark.parametrize("name", SURROGATES)
def test_closed_form(name: str) -> None:
    expected = torch.tensor([CLOSED_FORM[name](float(m)) for m in MARGINS], dtype=torch.float64)
    torch.testing.assert_close(surrogate_indicator(binary(MARGINS), 1, name), expected)
    torch.testing.assert_close(surrogate_indicator(binary(MARGINS), None, name), expected)  # every target is 1
    torch.testing.assert_close(surrogate_indicator(binary(-MARGINS), 0, name), expected)


@pytest.mark.parametrize("name", SURROGATES)
def test_slope_is_never_negative_and_positive_at_the_boundary(name: str) -> None:
    margins = torch.linspace(-5, 5, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(surrogate_indicator(binary(margins), 1, name).sum(), margins)
    assert (slope >= 0).all()
    assert slope[20] > 0


@pytest.mark.parametrize("name", ["logistic", "hinge"])
def test_concave_surrogates_are_lower_bounds_of_the_indicator(name: str) -> None:
    margins = torch.linspace(-5, 5, 101, dtype=torch.float64)
    assert (surrogate_indicator(binary(margins), 1, name) <= (margins > 0).double()).all()


@pytest.mark.parametrize("name", ["sigmoid", "linear", "probability"])
def test_symmetric_surrogates_share_one_between_the_two_decisions(name: str) -> None:
    total = surrogate_indicator(binary(MARGINS), 1, name) + surrogate_indicator(binary(MARGINS), 0, name)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_probability_of_many_classes_is_the_softmax() -> None:
    logits, targets = torch.randn(20, 5), torch.randint(5, (20,))
    outputs = Outputs.parse(logits, targets)
    for cls in range(5):
        torch.testing.assert_close(surrogate_indicator(outputs, cls, "probability"), torch.softmax(logits, 1)[:, cls])


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="sigmoid, logistic, hinge, linear, probability"):
        surrogate_indicator(binary(MARGINS), 1, "sigmoidal")
