"""Multipliers: hand-computed dual steps, νPI, augmented Lagrangian, cap and round trip."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.multipliers import MultiplierConfig, Multipliers

V = torch.tensor([[[0.5, -0.25]], [[-1.0, 0.0]]])  # (2, R = 1, G = 2)


def make(**options: object) -> Multipliers:
    return Multipliers(2, 1, 2, MultiplierConfig(**options))  # type: ignore[arg-type]


def test_dual_steps_by_hand() -> None:
    multipliers = make(lr=0.5)
    assert (multipliers.value == 0).all()
    multipliers.step(V)
    torch.testing.assert_close(multipliers.value, torch.tensor([[[0.25, 0.0]], [[0.0, 0.0]]]))
    multipliers.step(torch.tensor([[[-0.2, 0.8]], [[0.1, -3.0]]]))
    torch.testing.assert_close(multipliers.value, torch.tensor([[[0.15, 0.4]], [[0.05, 0.0]]]))
    multipliers.step(torch.tensor([[[-0.2, -0.2]], [[-1.0, 0.0]]]), steps=4)  # η = 0.5 · 4
    torch.testing.assert_close(multipliers.value, torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]]))


@given(st.integers(40, 10_000))
def test_a_violation_that_stays_moves_them_as_far_in_a_short_run_as_in_a_long_one(steps: int) -> None:
    multipliers = make()
    multipliers.plan(steps)
    multipliers.step(V * 0.01, steps=steps)
    assert float(multipliers.value[0, 0, 0]) == pytest.approx(0.005 * 80 / 4, rel=1e-3)


def test_very_short_runs_do_not_jump_and_a_rate_that_was_asked_for_stays() -> None:
    default, asked = make(), make(lr=0.3)
    for multipliers in (default, asked):
        multipliers.plan(10)
    assert default.lr == pytest.approx(2 / 4)
    assert asked.lr == 0.3


def test_steps_scale_one_step_only() -> None:
    multipliers = make(lr=0.1)
    multipliers.step(V, steps=10)
    multipliers.step(V)
    assert float(multipliers.value[0, 0, 0]) == pytest.approx(0.5 * 0.1 * 11)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12), st.sampled_from(["dual_ascent", "nupi", "augmented"])
)
def test_always_between_zero_and_cap(path: list[float], rule: str) -> None:
    multipliers = make(rule=rule, lr=1.0, cap=0.75)
    for value in path:
        multipliers.step(torch.full((2, 1, 2), value))
        assert float(multipliers.value.min()) >= 0
        assert float(multipliers.value.max()) <= 0.75


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8))
def test_nupi_without_gain_is_dual_ascent(path: list[float]) -> None:
    ascent, controller = make(lr=0.3), make(rule="nupi", lr=0.3, proportional_gain=0.0)
    for value in path:
        violation = value * V
        ascent.step(violation)
        controller.step(violation)
        torch.testing.assert_close(controller.value, ascent.value)


def test_nupi_by_hand() -> None:
    """λ ← λ + η (e_t + K (e_t − ξ_{t−1})): the gain answers to the change of the error.

    The first step is plain dual ascent; cooper then starts ξ at 0, so that the second one brings K · e₁ in full.
    """
    multipliers = make(rule="nupi", lr=0.1, proportional_gain=2.0)
    errors, expected = [1.0, 0.8, 0.9], 0.0
    for before, error in zip([1.0, 0.0, 0.8], errors, strict=True):
        multipliers.step(torch.full((2, 1, 2), error))
        expected = max(0.0, expected + 0.1 * (error + 2.0 * (error - before)))
        assert float(multipliers.value[1, 0, 1]) == pytest.approx(expected, rel=1e-5)


def test_penalty_is_the_inner_product_and_its_gradient_the_multipliers() -> None:
    multipliers = make()
    multipliers.set(torch.tensor([[[1.0, 2.0]], [[0.5, 0.0]]]))
    violation = V.clone().requires_grad_()
    value = multipliers.penalty(violation)
    assert float(value.detach()) == pytest.approx(0.5 - 0.5 - 0.5)
    before = multipliers.value.clone()
    value.backward()
    torch.testing.assert_close(violation.grad, before)
    assert torch.equal(multipliers.value, before)
    assert all(p.grad is None for p in multipliers._multiplier.parameters()), "the penalty must not reach λ"


def test_a_dual_step_gives_the_violation_no_gradient() -> None:
    multipliers = make()
    violation = V.clone().requires_grad_()
    multipliers.step(violation)
    assert violation.grad is None


def test_a_penalty_before_a_step_does_not_move_it() -> None:
    plain, mixed = make(lr=0.5), make(lr=0.5)
    mixed.set(torch.zeros(2, 1, 2))
    mixed.penalty(V.clone().requires_grad_()).backward()
    for multipliers in (plain, mixed):
        multipliers.step(V)
    assert torch.equal(plain.value, mixed.value)


def test_set_cuts_to_the_allowed_range() -> None:
    multipliers = make(cap=2.0)
    multipliers.set(torch.tensor([[[-1.0, 3.0]], [[1.0, 0.0]]]))
    assert multipliers.value.flatten().tolist() == [0.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("rule", ["dual_ascent", "nupi", "augmented"])
def test_state_round_trip_continues_identically(rule: str) -> None:
    one, other = make(rule=rule, lr=0.3), make(rule=rule, lr=0.3)
    one.step(V)
    one.step(0.5 * V)
    state = one.state_dict()
    one.step(V)
    other.load_state_dict(state)
    other.step(V)
    torch.testing.assert_close(other.value, one.value)
    assert float(one.value.max()) > 0


ERRORS = {
    "rule": ({"rule": "adam"}, "dual_ascent, nupi, augmented, paper"),
    "lr-zero": ({"lr": 0.0}, "lr > 0"),
    "lr-nan": ({"lr": float("nan")}, "lr > 0"),
    "cap-negative": ({"cap": -1.0}, "cap > 0"),
    "cap-infinite": ({"cap": float("inf")}, "cap > 0"),
    "window-zero": ({"window": 0}, "window as a positive whole number of batches, got 0"),
    "window-below-one": ({"window": 0.5}, "window as a positive whole number of batches, got 0.5"),
    "penalty-zero": ({"penalty": 0.0}, "penalty > 0"),
    "warmup-negative": ({"warmup": -1}, "warmup"),
    "margin-negative": ({"margin": -0.5}, "margin"),
    "margin-nan": ({"margin": float("nan")}, "margin"),
    "gain-negative": ({"proportional_gain": -1.0}, "proportional_gain"),
    "gain-nan": ({"proportional_gain": float("nan")}, "proportional_gain"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_unusable_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiplierConfig(**options)  # type: ignore[arg-type]


def test_from_dict() -> None:
    assert MultiplierConfig.from_dict({"lr": 0.5}) == MultiplierConfig(lr=0.5)
    with pytest.raises(ConfigError, match=r"unknown key 'eta'.*rule, lr, cap"):
        MultiplierConfig.from_dict({"eta": 0.5})


def test_window_is_the_memory_of_the_counts() -> None:
    assert MultiplierConfig(window=1).decay == 0
    assert 1 / (1 - MultiplierConfig(window=20).decay) == pytest.approx(20)


class TestAugmented:
    """Nocedal and Wright, eq. 17.64 and 17.65: the minimum over slacks of λ (g + s) + ρ/2 (g + s)², s ≥ 0."""

    @given(st.floats(-2, 2), st.floats(0, 5), st.floats(0.125, 8))
    def test_closed_form(self, g: float, multiplier: float, rho: float) -> None:
        multipliers = make(rule="augmented", penalty=rho)
        multipliers.set(torch.tensor([[[multiplier, 0.0]], [[0.0, 0.0]]]))
        violation = torch.tensor([[[g, -1.0]], [[-1.0, -1.0]]], requires_grad=True)
        value = multipliers.penalty(violation)
        active = multiplier + rho * g >= 0
        expected = multiplier * g + rho / 2 * g**2 if active else -(multiplier**2) / (2 * rho)
        assert float(value.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        (gradient,) = torch.autograd.grad(value, violation)
        # The gradient is the multiplier after a full projected step: max(0, λ + ρ g).
        assert float(gradient[0, 0, 0]) == pytest.approx(max(0.0, multiplier + rho * g), rel=1e-4, abs=1e-5)
        assert float(gradient.flatten()[1:].abs().max()) == 0, "met constraints without a multiplier cost nothing"

    @given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6))
    def test_its_dual_steps_are_dual_ascent(self, path: list[float]) -> None:
        ascent, augmented = make(lr=0.3), make(rule="augmented", lr=0.3, penalty=5.0)
        for value in path:
            ascent.step(value * V)
            augmented.step(value * V)
            torch.testing.assert_close(augmented.value, ascent.value)

    def test_it_pushes_before_the_multiplier_does(self) -> None:
        violation = torch.full((2, 1, 2), 0.5, requires_grad=True)
        assert float(make().penalty(violation).detach()) == 0
        (gradient,) = torch.autograd.grad(make(rule="augmented", penalty=2.0).penalty(violation), violation)
        assert (gradient == 1.0).all()


def test_one_sided_constraints_have_one_side_of_multipliers() -> None:
    multipliers = Multipliers(1, 2, 3, MultiplierConfig(lr=1.0))
    violation = torch.arange(6.0).reshape(1, 2, 3) - 2.5
    multipliers.step(violation)
    torch.testing.assert_close(multipliers.value, violation.clamp_min(0))
    assert float(multipliers.penalty(violation)) == pytest.approx(float(violation.clamp_min(0).square().sum()))
