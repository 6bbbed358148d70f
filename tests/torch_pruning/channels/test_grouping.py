"""From the host's graph to groups of channels: which positions belong to which unit, and what is protected."""

from __future__ import annotations

import pytest
import torch
from host_networks import MLP, prune_mlp, rows
from read_groups import groups_of, sites
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin import FairPruneWarning
from fairprune_plugin.errors import UnsupportedModelError


class Halves(nn.Module):
    """A layer split in two halves that are multiplied (a gated linear unit), or added."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.fc = nn.Linear(6, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        left, right = x.split(4, dim=1) if self.how == "split" else x.chunk(2, dim=1)
        out: Tensor = self.fc(left * torch.sigmoid(right) if self.how != "added" else F.relu(left + right))
        return out


@pytest.mark.parametrize("how", ["multiplied", "added"])
def test_halves_that_meet_again_are_tied(how: str) -> None:
    """Channel c of one half is of no use without channel c of the other: they are one unit."""
    model = Halves(how)
    group = groups_of(model, rows(), ignored_layers=[model.fc])["a"]
    assert (group.num_units, group.channels_per_unit) == (4, 2)
    assert sites(group)["a.weight", 0] == {i: i % 4 for i in range(8)}
    assert sites(group)["fc.weight", 1] == {i: i for i in range(4)}


def test_halves_of_a_fixed_size_are_refused() -> None:
    """``split(4)`` still asks for fours once there are fewer: the pruned model would not run."""
    model = Halves("split")
    with pytest.raises(
        UnsupportedModelError, match=r"fixed sizes.*: a \(with fc\)\. Add these layers to ignored_layers"
    ):
        groups_of(model, rows(), ignored_layers=[model.fc])


# ---- outputs ---------------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    """Two outputs, one of them a feature map of an inner layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.features, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.features(F.relu(self.a(x))))
        return self.head(features), features


@pytest.mark.filterwarnings("ignore:the channels of head are the model's outputs")
def test_features_that_are_returned_as_well_are_refused_by_name() -> None:
    """The graph does not know that an inner layer is an output too; the self-check sees that its width changes."""
    model = TwoHeads()
    with pytest.raises(
        UnsupportedModelError, match=r"tensor 2 of 2 from \(4, 5\) to \(4, 3\).*ignored_layers: features \(with head\)"
    ):
        groups_of(model, rows())
    assert groups_of(model, rows(), ignored_layers=[model.features, model.head]).keys() == {"a"}


def test_an_output_behind_functions_is_protected() -> None:
    class Scaled(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(super().forward(x) * 2.0, dim=1)

    with pytest.warns(FairPruneWarning, match="the channels of fc are the model's outputs"):
        groups = groups_of(Scaled(), rows())
    assert groups.keys() == {"a", "b"}


def test_a_residual_output_is_protected() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return x + self.c(F.relu(self.b(x)))

    with pytest.warns(FairPruneWarning, match="outputs"):
        groups = groups_of(Residual(), rows())
    assert groups.keys() == {"b"}


def test_ignoring_the_outputs_says_it_too() -> None:
    prune_mlp(MLP())  # warnings are errors


class SeparateAttention(nn.Module):
    """Without a residual around it: its projection's inputs are one group of channels, its outputs another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(16, 16) for _ in range(4))
        self.fc = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        size = self.q.out_features // 4
        q, k, v = (layer(x).reshape(len(x), -1, 4, size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2)
        out: Tensor = self.fc(torch.relu(self.proj(mixed)).mean(1))
        return out


def test_inputs_and_outputs_of_one_layer_are_named_apart() -> None:
    """Budgets and states go by the names of groups."""
    model = SeparateAttention()
    heads = dict.fromkeys((model.q, model.k, model.v), 4)
    found = groups_of(model, torch.randn(2, 5, 16), ignored_layers=[model.fc], num_heads=heads)
    assert {name: group.num_units for name, group in found.items()} == {"proj": 16, "proj (inputs)": 4}
