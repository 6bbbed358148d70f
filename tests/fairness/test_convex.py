"""A convex problem solved exactly: training by the Lagrangian must end where SLSQP ends, with every rule of multipliers.

Logistic regression under a bound on mean scores: the rate is the linear surrogate itself, (1 + w·x)/2, so that strict and
surrogate violation are the same number, the feasible set is a polytope and the optimum is unique.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from fairprune_plugin.fairness.constraints import RateParity
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.rates import Rate

TOLERANCE = 0.1
SCORE = Rate(
    lambda out: (1 + out.logits) / 2, surrogate=lambda out: (1 + out.logits) / 2, name="mean_score", indicator=False
)
RULES: dict[str, dict[str, Any]] = {
    "dual-ascent": {"lr": 0.5},
    "nupi": {"rule": "nupi", "lr": 0.5, "proportional_gain": 2.0},
    "augmented": {"rule": "augmented", "lr": 0.5, "penalty": 2.0},
}


def data(groups: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    s = torch.arange(90) % groups
    x = torch.randn(90, 3, generator=generator, dtype=torch.float64)
    x[:, 0] += 2.0 * s / (groups - 1)
    x[:, 2] = 1.0
    logits = 1.5 * x[:, 0] - x[:, 1] - 0.5
    return x, (torch.rand(90, generator=generator) < torch.sigmoid(logits)).long(), s


def objective(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x @ w, y.double()) + 0.01 * w.square().sum()


def exact(x: Tensor, y: Tensor, contrasts: np.ndarray) -> tuple[np.ndarray, float]:
    """The optimum under |contrast · w| ≤ τ for every row; the constraints bind."""

    def value_and_gradient(w: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(w, requires_grad=True)
        value = objective(point, x, y)
        return float(value.detach()), torch.autograd.grad(value, point)[0].numpy()

    free = minimize(value_and_gradient, np.zeros(3), jac=True, method="BFGS").x
    assert np.abs(contrasts @ free).max() > 3 * TOLERANCE, "the constraint must bind"
    bounds = [
        {
            "type": "ineq",
            "fun": lambda w, sign=sign: TOLERANCE - sign * (contrasts @ w),
            "jac": lambda w, sign=sign: -sign * contrasts,
        }
        for sign in (1, -1)
    ]
    solution = minimize(
        value_and_gradient, np.zeros(3), jac=True, method="SLSQP", constraints=bounds, options={"ftol": 1e-13}
    )
    assert solution.success
    return solution.x, solution.fun


def contrasts_of(x: Tensor, s: Tensor, reference: str | int) -> np.ndarray:
    """Rows c with c · w = the difference that is bounded; the rate of a group is (1 + mean x · w)/2."""
    groups = range(int(s.max()) + 1)
    means = np.stack([x[s == g].numpy().mean(0) for g in groups]) / 2
    if reference == "pairwise":
        return np.stack([means[g] - means[h] for g in groups for h in groups if g < h])
    middle = x.numpy().mean(0) / 2 if reference == "overall" else means[int(reference)]
    return means - middle


def train(
    x: Tensor, y: Tensor, s: Tensor, constraint: RateParity, steps: int, lr: float, config: dict[str, Any]
) -> tuple[Tensor, Any]:
    """The loop of a user, on the full batch."""
    lagrangian = Lagrangian(
        constraint, config=MultiplierConfig(window=1, cap=100.0, **config), task_loss=lambda out, t: 0.0 * out.sum()
    )
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (objective(w, x, y) + lagrangian.loss(x @ w, y, s)).backward()
        optimizer.step()
        lagrangian.dual_step_from_training()
    return w.detach(), lagrangian.trackers[0]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_finds_the_optimum_of_two_groups(rule: str) -> None:
    """Weights, loss, the gap at its tolerance and the multipliers, all to 0.1 %."""
    x, y, s = data(2)
    contrasts = contrasts_of(x, s, "pairwise")
    solution, optimum = exact(x, y, contrasts)
    w, tracker = train(x, y, s, RateParity(TOLERANCE, rate=SCORE), 200, 1.0, RULES[rule])
    np.testing.assert_allclose(w, solution, rtol=1e-3)
    assert float(objective(w, x, y)) == pytest.approx(optimum, rel=1e-3)
    assert float((contrasts @ w.numpy())[0]) == pytest.approx(-TOLERANCE, rel=1e-3)
    # Stationarity: ∇loss = −μ ∇gap, and the multipliers of both groups add up to that μ (each sees half of the gap).
    point = torch.tensor(solution, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(point, x, y), point)
    gap = -contrasts[0]
    mu = -float(gradient.numpy() @ gap) / float(gap @ gap)
    value = tracker.multipliers.value
    assert float((value[0, 0, 1] + value[1, 0, 0]) / 2) == pytest.approx(mu, rel=1e-3)
    assert float(value[0, 0, 0] + value[1, 0, 1]) == pytest.approx(0, abs=1e-6), "the other sides do not bind"


@pytest.mark.parametrize(
    ("reference", "lr", "dual_lr"), [("overall", 1.0, 1.5), (0, 0.6, 0.5), ("pairwise", 1.0, 0.5)], ids=str
)
def test_three_groups(reference: str | int, lr: float, dual_lr: float) -> None:
    """Weights to 1 %, loss to 0.1 %, the largest difference at its tolerance to 1 %."""
    x, y, s = data(3)
    contrasts = contrasts_of(x, s, reference)
    solution, optimum = exact(x, y, contrasts)
    constraint = RateParity(TOLERANCE, groups=3, reference=reference, rate=SCORE)
    w, _ = train(x, y, s, constraint, 300, lr, {**RULES["augmented"], "lr": dual_lr})
    np.testing.assert_allclose(w, solution, rtol=1e-2)
    assert float(objective(w, x, y)) == pytest.approx(optimum, rel=1e-3)
    assert np.abs(contrasts @ w.numpy()).max() == pytest.approx(TOLERANCE, rel=1e-2)


def test_a_tolerance_that_does_not_bind_changes_nothing() -> None:
    x, y, s = data(2)
    w, tracker = train(x, y, s, RateParity(50.0, rate=SCORE), 50, 1.0, RULES["dual-ascent"])
    free = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([free], lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        objective(free, x, y).backward()
        optimizer.step()
    torch.testing.assert_close(w, free.detach())
    assert (tracker.multipliers.value == 0).all()
