"""What a mask cannot do exactly is found on a copy, before any training, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from driving import SmallCNN, example_of
from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.trial.selfcheck import close, grow, randomise_norms, uneven_half


class Body(nn.Module):
    """Two layers with something between them that mixes channels."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 2)
        self._mix = mix

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.second(self._mix(self.first(x))).relu())
        return y


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda h: h.softmax(-1),
    "normalize": lambda h: F.normalize(h, dim=-1),
    "layer_norm-function": lambda h: F.layer_norm(h, h.shape[-1:]),
    "minus-mean": lambda h: h - h.mean(-1, keepdim=True),
    "max": lambda h: h / (1 + h.amax(-1, keepdim=True).abs()),
    "roll": lambda h: h.roll(1, -1),
    "fixed-reshape": lambda h: h.reshape(-1, 4, 4).flatten(1),
}
EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "shifted": lambda h: h.sigmoid() + 1,  # a channel of zeros does not stay zero, and need not
    "square": torch.square,
}


@pytest.mark.parametrize("mix", MIXING)
def test_inexact_layers_are_named(mix: str) -> None:
    model = Body(MIXING[mix])
    with pytest.raises(UnsupportedModelError, match="Add these layers to ignored_layers") as raised:
        BiFPPruner(model, torch.randn(4, 6), pruning_ratio=0.5, ignored_layers=[model.fc])
    guilty = str(raised.value).rsplit("):", 1)[1]
    assert "first (" in guilty
    assert "second (" not in guilty  # the other group is innocent
    BiFPPruner(model, torch.randn(4, 6), pruning_ratio=0.5, ignored_layers=[model.fc, model.first])


@pytest.mark.parametrize("mix", EXACT)
def test_exact_layers_pass(mix: str) -> None:
    model = Body(EXACT[mix])
    pruner = BiFPPruner(model, torch.randn(4, 6), pruning_ratio=0.5, ignored_layers=[model.fc])
    assert len(pruner.host_groups) == 2


def test_the_check_can_be_switched_off() -> None:
    model = Body(MIXING["softmax"])
    pruner = BiFPPruner(model, torch.randn(4, 6), pruning_ratio=0.5, ignored_layers=[model.fc], self_check=False)
    assert len(pruner.host_groups) == 2


def test_norms_are_randomised_reproducibly() -> None:
    one, two = SmallCNN(), SmallCNN()
    two.load_state_dict(one.state_dict())
    for model in (one, two):
        randomise_norms(model, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one.bn1.running_mean.abs().min() > 0
    assert (one.bn1.running_var != 1).all()
    assert (one.bn1.running_var >= 0.5).all()
    assert one(example_of(one)).isfinite().all()


@given(st.integers(1, 40), st.integers(0, 3))
def test_no_two_halves_lose_as_many_channels(units: int, seed: int) -> None:
    hidden = uneven_half(units, torch.Generator().manual_seed(seed))
    assert len(hidden.unique()) == len(hidden) <= units // 2 + 1
    assert len(hidden) < units
    if units > 1:
        first = int((hidden < units // 2).sum())
        assert first > len(hidden) - first


def test_small_matrices_grow_until_they_keep_sizes() -> None:
    small, large, nothing = torch.randn(64, 32) * 0.02, torch.randn(64, 32), torch.zeros(4, 4)
    before = large.clone()
    grow([small, large, nothing])
    assert float(small.square().mean() * 32) == pytest.approx(1)
    assert torch.equal(large, before)
    assert not nothing.any()


class Attention(nn.Module):
    """As a vision transformer has it at first: scores of about nothing, whatever their scale."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.fc, self._scale = nn.Linear(16, 2), scale
        for layer in (self.q, self.k):
            nn.init.normal_(layer.weight, std=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = (layer(h).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self._scale).transpose(1, 2).flatten(2)
        y: Tensor = self.fc(self.o(mixed).mean(1))
        return y


@pytest.mark.parametrize("scale", [None, 8**-0.5])
def test_a_scale_that_follows_the_size_of_the_heads_is_found(scale: float | None) -> None:
    """Torch takes the root of the size, which falls with the dimensions that go, unless it is told a scale."""
    model = Attention(scale)
    options: dict[str, Any] = {"num_heads": dict.fromkeys((model.q, model.k, model.v), 2), "ignored_layers": [model.fc]}
    if scale is not None:
        assert BiFPPruner(model, torch.randn(4, 3, 6), pruning_ratio=0.5, **options).host_groups
        return
    with pytest.raises(UnsupportedModelError, match=r"\(with [qkvo], [qkv], [qkv]\)"):
        BiFPPruner(model, torch.randn(4, 3, 6), pruning_ratio=0.5, **options)


def test_a_tensor_cut_by_its_width_is_found() -> None:
    model = Body(lambda h: torch.cat(h.split(h.shape[-1] // 2, -1)[::-1], -1))
    with pytest.raises(UnsupportedModelError, match="first"):
        BiFPPruner(model, torch.randn(4, 6), pruning_ratio=0.5, ignored_layers=[model.fc, model.second])


def test_closeness_is_relative_to_the_output() -> None:
    large = torch.tensor([1000.0, 0.0])
    assert close(large, large + torch.tensor([0.5, 0.5]))
    assert not close(large, large + torch.tensor([0.0, 5.0]))
    assert not close(torch.ones(3), torch.ones(4))
    assert not close(torch.ones(3), torch.full((3,), torch.nan))
    assert close(torch.zeros(0), torch.zeros(0))


@dataclass
class Answer:
    """What a model may return beside tensors."""

    logits: Tensor
    aux: None = None
    count: int = 3


@pytest.mark.parametrize(
    "form", [Answer, lambda logits: {"logits": logits, "aux": None}, lambda logits: (logits, None, 3)]
)
def test_outputs_that_are_not_all_tensors(form: Callable[[Tensor], object]) -> None:
    class Talkative(SmallCNN):
        def forward(self, x: Tensor) -> Tensor:
            return form(super().forward(x))  # type: ignore[return-value]

    def logits(output: Any) -> Tensor:
        if isinstance(output, tuple):
            return output[0]
        return output["logits"] if isinstance(output, dict) else output.logits

    model = Talkative()
    pruner = BiFPPruner(model, example_of(model), ignored_layers=[model.fc], output_transform=logits)
    assert pruner.host_groups


@dataclass
class Output:
    logits: Tensor
    features: Tensor


class ReturnsFeatures(nn.Module):
    """Its features are an output, in a container."""

    def __init__(self, kind: Callable[[Tensor, Tensor], Any], mix: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(6, 16), nn.Linear(16, 2)
        self._kind, self._mix = kind, mix

    def forward(self, x: Tensor) -> Any:
        features = self._mix(self.first(x))
        return self._kind(self.fc(features), features)


@pytest.mark.parametrize(
    ("kind", "logits", "message"),
    [
        (lambda y, h: (y, h), lambda out: out[0], r"tensor 2 of 2 from \(4, 16\) to \(4, 8\) in a trial.*forward_fn"),
        (
            lambda y, h: {"y": y, "h": h},
            lambda out: out["y"],
            r"tensor 2 of 2 from \(4, 16\) to \(4, 8\) in a trial.*forward_fn",
        ),
        (Output, lambda out: out.logits, r"an object of your own, let forward_fn=lambda model, x: …"),
    ],
)
def test_features_among_the_outputs(kind: Any, logits: Any, message: str) -> None:
    model, x = ReturnsFeatures(kind), torch.randn(4, 6)
    options = {"pruning_ratio": 0.5, "ignored_layers": [model.fc]}
    with pytest.raises(UnsupportedModelError, match=message):
        BiFPPruner(model, x, **options)
    BiFPPruner(model, x, forward_fn=lambda model, x: logits(model(x)), **options)  # as the message says


def test_features_do_not_hide_what_is_inexact() -> None:
    model = ReturnsFeatures(lambda y, h: (y, h), lambda h: h.softmax(-1))
    with pytest.raises(UnsupportedModelError, match="masked channel is not the same as a pruned one"):
        BiFPPruner(model, torch.randn(4, 6), pruning_ratio=0.5, ignored_layers=[model.fc])
