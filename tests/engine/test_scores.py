"""Scores: bias-corrected second moments in closed form, the printed gradient rule, selection, round trip."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin.engine.config import BiLevelConfig
from fairprune_plugin.engine.scores import PRIOR, PRIOR_OF_SINGLE_WEIGHTS, MaskScores

INITIAL = torch.tensor([0.5, 0.1, 0.9, 0.3])


def scores(**options: object) -> MaskScores:
    return MaskScores(INITIAL, BiLevelConfig(**options))  # type: ignore[arg-type]


def test_before_the_first_mask_step_the_magnitude_ranks() -> None:
    assert torch.equal(scores().value(), INITIAL)
    relaxed = scores(score_rule="gradient").value()
    torch.testing.assert_close(relaxed, torch.tensor([3, 1, 4, 2]) / 5)  # ranks, inside (0, 1)


def test_second_moment_is_the_weighted_mean_of_squares() -> None:
    subject, derivatives = scores(score_decay=0.8, prior=0.0), torch.randn(6, 4)
    for derivative in derivatives:
        subject.update(derivative)
    weights = 0.8 ** torch.arange(5, -1, -1.0)
    expected = (weights[:, None] * derivatives.square()).sum(0) / weights.sum()
    torch.testing.assert_close(subject.value(), expected)
    torch.testing.assert_close(subject.first, 0.2 * (weights[:, None] * derivatives).sum(0))


def test_one_update_is_unbiased() -> None:
    subject = scores(score_decay=0.99, prior=0.0)
    subject.update(torch.tensor([1.0, -2.0, 3.0, 0.0]))
    torch.testing.assert_close(subject.value(), torch.tensor([1.0, 4.0, 9.0, 0.0]))


def test_the_prior_is_averaged_in_geometrically() -> None:
    derivative = torch.tensor([1.0, -2.0, 3.0, 0.5])
    for prior in (0.0, 0.3, 1.0):
        subject = scores(prior=prior)
        subject.update(derivative)
        expected = (1 - prior) * derivative.square().log() + prior * INITIAL.log()
        found = subject.value().log()
        torch.testing.assert_close(found - found.mean(), expected - expected.mean())
    assert torch.equal(scores(prior=1.0).value().argsort(), INITIAL.argsort())


def test_neither_scale_matters_and_a_zero_does_not_take_the_other_with_it() -> None:
    orders = []
    for scale in (1e-6, 1.0, 1e6):
        subject = MaskScores(scale * INITIAL, BiLevelConfig())
        subject.update(torch.tensor([1.0, 2.0, 0.0, 0.0]) / scale)
        orders.append(subject.value().argsort().tolist())
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0] == 3, "of two without a derivative the smaller one goes first"
    nothing = MaskScores(torch.zeros(4), BiLevelConfig())
    nothing.update(torch.zeros(4))
    assert torch.isfinite(nothing.value()).all()


@pytest.mark.parametrize("single", [[True] * 4, [False] * 4, [True, False, False, True]])
def test_single_weights_lean_more_on_the_prior(single: list[bool]) -> None:
    subject = MaskScores(INITIAL, BiLevelConfig(), torch.tensor(single))
    derivative = torch.tensor([0.3, -1.0, 2.0, 0.1])
    subject.update(derivative)
    prior = torch.tensor([PRIOR_OF_SINGLE_WEIGHTS if one else PRIOR for one in single])
    # The first estimate of the second moment, its bias removed, is the square itself.
    expected = derivative.square() ** (1 - prior) * INITIAL**prior
    torch.testing.assert_close(subject.value(), expected)
    subject.select(torch.tensor([3, 0]))
    torch.testing.assert_close(subject.value(), expected[[3, 0]])
    asked = MaskScores(INITIAL, BiLevelConfig(prior=0.25), torch.tensor(single))
    asked.update(derivative)
    torch.testing.assert_close(asked.value(), derivative.square() ** 0.75 * INITIAL**0.25)


def test_gradient_rule_descends_in_units_of_the_rms() -> None:
    subject = scores(score_rule="gradient", mask_lr=0.1)
    before, derivative = subject.value().clone(), torch.tensor([3.0, -3.0, 3.0, 3.0])
    subject.update(derivative)
    torch.testing.assert_close(subject.value(), before - 0.1 * derivative / 3)
    subject.update(1000 * derivative)  # the scale of the loss does not matter
    torch.testing.assert_close(subject.value(), before - 0.2 * derivative / 3)
    subject.update(torch.zeros(4))
    assert torch.isfinite(subject.value()).all()


def test_scores_are_not_the_tensor_they_started_from() -> None:
    initial = INITIAL.clone()
    subject = MaskScores(initial, BiLevelConfig())
    initial.zero_()
    assert torch.equal(subject.value(), INITIAL)


@pytest.mark.parametrize("rule", ["second_moment", "gradient"])
def test_selection_keeps_the_history_of_what_is_left(rule: str) -> None:
    subject, index = scores(score_rule=rule), torch.tensor([0, 2, 3])
    subject.update(torch.randn(4))
    expected = subject.value()[index].clone()
    subject.select(index)
    torch.testing.assert_close(subject.value(), expected)
    subject.update(torch.randn(3))
    assert subject.value().shape == (3,)


@pytest.mark.parametrize("rule", ["second_moment", "gradient"])
def test_state_round_trip(rule: str) -> None:
    one, other = scores(score_rule=rule), MaskScores(torch.zeros(4), BiLevelConfig(score_rule=rule))
    one.update(torch.randn(4))
    other.load_state_dict(one.state_dict())
    derivative = torch.randn(4)
    for subject in (one, other):
        subject.update(derivative)
    assert torch.equal(one.value(), other.value())
