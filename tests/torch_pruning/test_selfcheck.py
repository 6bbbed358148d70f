"""What a mask cannot do exactly is found on a copy, before any training, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from driving import SmallCNN, example_of
from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.selfcheck import _close, randomise_norms


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


def test_closeness_is_relative_to_the_output() -> None:
    large = torch.tensor([1000.0, 0.0])
    assert _close(large, large + torch.tensor([0.5, 0.5]))
    assert not _close(large, large + torch.tensor([0.0, 5.0]))
    assert not _close(torch.ones(3), torch.ones(4))
    assert not _close(torch.ones(3), torch.full((3,), torch.nan))
    assert _close(torch.zeros(0), torch.zeros(0))


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
