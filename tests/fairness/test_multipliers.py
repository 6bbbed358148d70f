"""Multipliers: hand-computed dual steps, νPI, cap, round trip, and a convex problem solved exactly by SLSQP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness import rates
from fairprune_plugin.fairness.constraints import DemographicParity
from fairprune_plugin.fairness.multipliers import MultiplierConfig, Multipliers
from fairprune_plugin.fairness.outputs import Outputs
from fairprune_plugin.fairness.tracker import ConstraintTracker

V = torch.tensor([[[0.5, -0.25]], [[-1.0, 0.0]]])  # (2, R = 1, G = 2)


def make(**options: object) -> Multipliers:
    return Multipliers(1, 2, MultiplierConfig(**options))  # type: ignore[arg-type]


def test_dual_steps_by_hand() -> None:
    multipliers = make(lr=0.5)
    assert (multipliers.value == 0).all()
    multipliers.step(V)
    torch.testing.assert_close(multipliers.value, torch.tensor([[[0.25, 0.0]], [[0.0, 0.0]]]))
    multipliers.step(torch.tensor([[[-0.2, 0.8]], [[0.1, -3.0]]]))
    torch.testing.assert_close(multipliers.value, torch.tensor([[[0.15, 0.4]], [[0.05, 0.0]]]))
    multipliers.step(torch.tensor([[[-0.2, -0.2]], [[-1.0, 0.0]]]), steps=4)  # η = 0.5 · 4
    torch.testing.assert_close(multipliers.value, torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]]))


def test_steps_scale_one_step_only() -> None:
    multipliers = make(lr=0.1)
    multipliers.step(V, steps=10)
    multipliers.step(V)
    assert float(multipliers.value[0, 0, 0]) == pytest.approx(0.5 * 0.1 * 11)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12), st.sampled_from(["dual_ascent", "nupi"]))
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


@pytest.mark.parametrize("rule", ["dual_ascent", "nupi"])
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
    "rule": ({"rule": "adam"}, "dual_ascent, nupi, paper"),
    "lr-zero": ({"lr": 0.0}, "lr > 0"),
    "lr-nan": ({"lr": float("nan")}, "lr > 0"),
    "cap-negative": ({"cap": -1.0}, "cap > 0"),
    "cap-infinite": ({"cap": float("inf")}, "cap > 0"),
    "window-zero": ({"window": 0}, "window > 0"),
    "window-below-one": ({"window": 0.5}, "at least one batch"),
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


class TestConvexProblem:
    """min logistic loss s.t. |selection gap| ≤ τ with the linear surrogate: convex, so the optimum is known.

    The surrogate violation drives the multipliers here as well, so that gradient descent on the penalty and dual
    ascent must find the optimum of the constrained problem.
    """

    TOLERANCE = 0.1

    @staticmethod
    def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        s = (torch.arange(80) % 2).long()
        x = torch.randn(80, 3, generator=generator, dtype=torch.float64)
        x[:, 0] += 2.0 * s
        x[:, 2] = 1.0
        logits = 1.5 * x[:, 0] - x[:, 1] - 0.5
        return x, (torch.rand(80, generator=generator) < torch.sigmoid(logits)).long(), s

    def test_the_lagrangian_finds_the_constrained_optimum(self) -> None:
        x, y, s = self.data()

        def loss(w: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y.double()) + 0.01 * w.square().sum()

        contrast = ((x[s == 1].mean(0) - x[s == 0].mean(0)) / 2).numpy()  # gap of (1 + x·w)/2, linear in w

        def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
            point = torch.tensor(w, requires_grad=True)
            value = loss(point)
            return float(value.detach()), torch.autograd.grad(value, point)[0].numpy()

        free = minimize(objective, np.zeros(3), jac=True, method="BFGS").x
        assert abs(contrast @ free) > 3 * self.TOLERANCE, "the constraint must bind"
        exact = minimize(
            objective,
            np.zeros(3),
            jac=True,
            method="SLSQP",
            constraints=[
                {"type": "ineq", "fun": lambda w: self.TOLERANCE - contrast @ w},
                {"type": "ineq", "fun": lambda w: self.TOLERANCE + contrast @ w},
            ],
            options={"ftol": 1e-12},
        )
        assert exact.success

        constraint = DemographicParity(self.TOLERANCE, surrogate="linear")
        tracker = ConstraintTracker(constraint, 2, MultiplierConfig(lr=0.5, cap=100.0))
        w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        half = self.TOLERANCE / 2
        for _ in range(1200):
            outputs = Outputs.parse(x @ w, y)
            (gradient,) = torch.autograd.grad(loss(w) + tracker.penalty(outputs, s), w)
            with torch.no_grad():
                w -= 0.5 * gradient
                u = rates.selection_rate(1).surrogate(Outputs.parse(x @ w, y), "linear")
                deviation = torch.stack([u[s == 0].mean(), u[s == 1].mean()])[None]
                deviation = deviation - deviation.mean()
                tracker.multipliers.step(torch.stack([deviation, -deviation]) - half)
        assert float(loss(w.detach())) == pytest.approx(exact.fun, rel=1e-2)
        assert float(contrast @ w.detach().numpy()) == pytest.approx(self.TOLERANCE, rel=1e-2)
        np.testing.assert_allclose(w.detach().numpy(), exact.x, rtol=1e-2, atol=1e-3)
        # Stationarity: ∇loss = −μ ∇gap, and the penalty's multipliers sum to that μ (each sees half of the gap).
        gradient = objective(exact.x)[1]
        mu = -(gradient @ contrast) / (contrast @ contrast)
        value = tracker.multipliers.value
        found = (value[0, 0, 1] - value[1, 0, 1] + value[1, 0, 0] - value[0, 0, 0]) / 2
        assert float(found) == pytest.approx(mu, rel=2e-2)
