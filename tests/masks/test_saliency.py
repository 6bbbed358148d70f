"""Mask derivatives: against autograd through an explicit mask, and the implicit term against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairprune_plugin.masks.groups import ChannelGroup
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.masks.saliency import group_magnitude, mask_gradient
from toy_networks import Chain, site


class Bilinear(nn.Module):
    """x W v: rows and columns of W are masked by two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 5))
        self.v = nn.Parameter(torch.randn(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w @ self.v)


def chain() -> tuple[nn.Module, tuple[ChannelGroup, ...], Tensor]:
    model = Chain(norms=False)
    return model, model.groups(), torch.randn(12, 4)


def conv() -> tuple[nn.Module, tuple[ChannelGroup, ...], Tensor]:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4 * 4, 2))
    flat = torch.arange(4).repeat_interleave(4)  # each channel is four positions of the flattened input
    groups = (
        ChannelGroup("0", 6, 1, (site(model[2].weight, 1),), (site(model[0].weight, 0), site(model[0].bias, 0))),
        ChannelGroup("2", 4, 1, (site(model[4].weight, 1, flat),), (site(model[2].weight, 0), site(model[2].bias, 0))),
    )
    return model, groups, torch.randn(5, 3, 6, 6)


def grouped_conv() -> tuple[nn.Module, tuple[ChannelGroup, ...], Tensor]:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 2)
    )
    twice = torch.arange(3).repeat(2)  # a unit is the same channel of both convolution groups
    group = ChannelGroup(
        "0", 3, 2, (site(model[2].weight, 1),), (site(model[0].weight, 0, twice), site(model[0].bias, 0, twice))
    )
    return model, (group,), torch.randn(5, 2, 4, 4)


def two_masked_axes() -> tuple[nn.Module, tuple[ChannelGroup, ...], Tensor]:
    model = Bilinear()
    groups = (
        ChannelGroup("rows", 4, 1, (site(model.w, 0),), ()),
        ChannelGroup("columns", 5, 1, (site(model.w, 1),), ()),
    )
    return model, groups, torch.randn(7, 4)


NETWORKS = {"linear": chain, "conv": conv, "grouped-conv": grouped_conv, "two-masked-axes": two_masked_axes}


def masked_parameters(theta: dict[str, Tensor], model: nn.Module, groups: tuple[ChannelGroup, ...], m: Tensor) -> dict:
    """z = m ⊙ θ, with the mask as a tensor that autograd sees."""
    names = {id(p): name for name, p in model.named_parameters()}
    z, offset = dict(theta), 0
    for group in groups:
        for place in group.masked:
            name = names[id(place.parameter)]
            factor = torch.ones(place.parameter.shape[place.dim], dtype=m.dtype)
            factor = factor.index_put((place.index,), m[place.unit + offset])
            z[name] = z[name] * factor.reshape([-1 if d == place.dim else 1 for d in range(z[name].dim())])
        offset += group.num_units
    return z


def loss_of(logits: Tensor) -> Tensor:
    return (logits - 1).square().mean()


@pytest.mark.parametrize("hides", [False, True], ids=["all-shown", "some-hidden"])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_direct_term_is_autograd_through_the_mask(make, hides: bool) -> None:
    model, groups, x = make()
    model.double()
    x = x.double()
    theta = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = MaskedWeights(groups)
    if hides:
        weights.set(torch.arange(weights.num_units) % 3 != 1)
    m = weights.keep.double().requires_grad_()
    explicit = loss_of(functional_call(model, masked_parameters(theta, model, groups, m), x))
    loss = loss_of(model(x))
    torch.testing.assert_close(loss, explicit)
    loss.backward()
    (expected,) = torch.autograd.grad(explicit, m)
    torch.testing.assert_close(mask_gradient(weights).double(), expected, rtol=1e-5, atol=1e-7)
    assert not hides or (expected[~weights.keep] != 0).all(), "hidden units have a derivative too"


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_implicit_term_is_the_masked_squared_gradient(make) -> None:
    model, groups, x = make()
    weights = MaskedWeights(groups)
    weights.set(torch.arange(weights.num_units) % 3 != 1)
    loss_of(model(x)).backward()
    difference = mask_gradient(weights, inverse_gamma=0.7) - mask_gradient(weights)
    expected, offset = torch.zeros(weights.num_units), 0
    for group in groups:
        for place in group.masked:
            gradient = place.parameter.grad.clone()
            for masked in weights.parameters:
                if masked.parameter is place.parameter:
                    for axis in masked.masked_axes:  # m₁ m₂ g: both masks of the product
                        gradient = gradient * axis.keep
            for position, unit in zip(place.index.tolist(), place.unit.tolist(), strict=True):
                expected[unit + offset] -= 0.7 * gradient.select(place.dim, position).square().sum()
        offset += group.num_units
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-6)


class TestImplicitTermAgainstFiniteDifferences:
    """Total derivative of ℓ(m ⊙ θ*(m)) with θ*(m) = argmin ℓ(m ⊙ θ) + γ/2 ‖θ‖²."""

    ROWS, UNITS = 3, 4

    def closed_form(self, theta: Tensor, gradient: Tensor, keep: Tensor, gamma: float) -> Tensor:
        parameter = nn.Parameter(theta.clone())
        weights = MaskedWeights((ChannelGroup("g", self.UNITS, 1, (site(parameter, 1),), ()),))
        weights.set(keep)
        parameter.grad = gradient.clone()
        return mask_gradient(weights, inverse_gamma=1 / gamma).double()

    def finite_difference(self, value, m: Tensor, step: float = 1e-5) -> Tensor:
        out = torch.zeros_like(m)
        for unit in range(len(m)):
            change = torch.zeros_like(m)
            change[unit] = step
            out[unit] = (value(m + change) - value(m - change)) / (2 * step)
        return out

    @pytest.mark.parametrize("hidden", [[], [1], [0, 3]], ids=["none-hidden", "one-hidden", "two-hidden"])
    @pytest.mark.parametrize("gamma", [0.5, 1.0, 4.0])
    def test_exact_for_a_loss_without_curvature(self, gamma: float, hidden: list[int]) -> None:
        """ℓ(z) = g·z has no Hessian: θ* = −(1/γ) m ⊙ g in closed form and nothing is approximated."""
        g = torch.randn(self.ROWS, self.UNITS, dtype=torch.float64)
        keep = torch.ones(self.UNITS, dtype=torch.bool)
        keep[hidden] = False

        def optimum(m: Tensor) -> Tensor:
            return -(m * g) / gamma

        def upper(m: Tensor) -> Tensor:
            return (g * m * optimum(m)).sum()

        m = keep.double()
        expected = self.finite_difference(upper, m)
        torch.testing.assert_close(self.closed_form(optimum(m), g, keep, gamma), expected, rtol=1e-5, atol=1e-7)
        assert expected[keep].abs().min() > 0.01

    def test_tends_to_the_true_derivative_as_the_regulariser_grows(self) -> None:
        """With curvature the error is O(1/γ²) while the derivative is O(1/γ)."""
        size = self.ROWS * self.UNITS
        root = torch.randn(size, size, dtype=torch.float64)
        a, b = root @ root.T / size, torch.randn(size, dtype=torch.float64)
        errors, relative = [], []
        for gamma in (30.0, 300.0):

            def spread(m: Tensor) -> Tensor:
                return m.expand(self.ROWS, self.UNITS).reshape(-1)

            def optimum(m: Tensor, gamma: float = gamma) -> Tensor:
                z = spread(m)
                return torch.linalg.solve(z[:, None] * a * z + gamma * torch.eye(size).double(), -z * b)

            def upper(m: Tensor, optimum=optimum) -> Tensor:
                z = spread(m) * optimum(m)
                return z @ a @ z / 2 + b @ z

            m = torch.ones(self.UNITS, dtype=torch.float64)
            theta = optimum(m)
            gradient = a @ (spread(m) * theta) + b
            shape = (self.ROWS, self.UNITS)
            ours = self.closed_form(theta.reshape(shape), gradient.reshape(shape), m.bool(), gamma)
            truth = self.finite_difference(upper, m, step=1e-4)
            errors.append(float((ours - truth).abs().max()))
            relative.append(errors[-1] / float(truth.abs().max()))
        assert relative[0] < 0.2
        assert relative[1] < 0.02
        assert errors[1] < errors[0] / 50  # 1/100 for an error of order 1/γ²

        # Without the implicit term half of the derivative is missing, however large γ is.
        direct = self.closed_form(theta.reshape(shape), gradient.reshape(shape), m.bool(), float("inf"))
        torch.testing.assert_close(direct, truth / 2, rtol=0.05, atol=1e-4)


def test_units_without_gradient_score_zero() -> None:
    _, groups, _ = chain()
    assert (mask_gradient(MaskedWeights(groups)) == 0).all()


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_magnitude_counts_every_weight_of_a_unit_and_ignores_the_mask(make) -> None:
    _, groups, _ = make()
    weights = MaskedWeights(groups)
    expected, offset = torch.zeros(weights.num_units), 0
    for group in groups:
        for place in group.sites:
            if place.parameter.dim() >= 2:  # biases and norms have no magnitude of their own
                for position, unit in zip(place.index.tolist(), place.unit.tolist(), strict=True):
                    expected[unit + offset] += place.parameter.detach().select(place.dim, position).square().sum()
        offset += group.num_units
    torch.testing.assert_close(group_magnitude(weights), expected)
    weights.set(torch.arange(weights.num_units) % 2 == 0)
    torch.testing.assert_close(group_magnitude(weights), expected)
