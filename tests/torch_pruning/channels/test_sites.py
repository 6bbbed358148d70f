"""Which parameters hide a channel, which go with it, and what no mask can hide."""

from __future__ import annotations

import pytest
import torch
from host_networks import MLP, ResidualCNN, images, rows
from read_groups import groups_of, masked, sites
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin.errors import UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner


def test_a_chain_is_hidden_at_its_readers() -> None:
    model = MLP()
    groups = groups_of(model, rows(), ignored_layers=[model.fc])
    assert groups.keys() == {"a", "b"}
    assert (groups["a"].num_units, groups["a"].channels_per_unit) == (12, 1)
    assert masked(groups["a"]) == {("b.weight", 1)}
    assert sites(groups["a"]).keys() == {
        ("b.weight", 1),
        ("a.weight", 0),
        ("a.bias", 0),
        ("bn.weight", 0),
        ("bn.bias", 0),
    }
    assert all(units == {i: i for i in range(12)} for units in sites(groups["a"]).values())


def test_a_residual_stream_is_one_group_with_two_writers_and_two_readers() -> None:
    model = ResidualCNN()
    groups = groups_of(model, images(), ignored_layers=[model.fc])
    stream = next(group for group in groups.values() if group.num_units == 6)
    assert masked(stream) == {("conv1.weight", 1), ("fc.weight", 1)}
    assert {("stem.weight", 0), ("conv2.weight", 0), ("bn0.weight", 0), ("bn2.bias", 0)} <= sites(stream).keys()


class Grouped(nn.Module):
    """A grouped convolution between two ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.b(F.relu(self.g(F.relu(self.a(x)))))).mean((2, 3)))
        return out


def test_columns_of_a_grouped_convolution() -> None:
    """Its kernel has in/groups columns: column c is read by channel c of every group, which leave together."""
    model = Grouped()
    groups = groups_of(model, images(), ignored_layers=[model.fc])
    into, out = groups["a"], groups["g"]
    assert (into.num_units, into.channels_per_unit) == (4, 2)
    assert masked(into) == {("g.weight", 1)}
    assert sites(into)["a.weight", 0] == {i: i % 4 for i in range(8)}
    assert sites(into)["g.weight", 1] == {i: i for i in range(4)}
    assert (out.num_units, out.channels_per_unit) == (3, 2)
    assert sites(out)["g.weight", 0] == {i: i % 3 for i in range(6)}
    assert sites(out)["b.weight", 1] == {i: i % 3 for i in range(6)}


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 5, 1)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.b(F.relu(self.dw(F.relu(self.a(x)))))).mean((2, 3)))
        return out


def test_a_depthwise_kernel_is_carried_and_its_reader_is_masked() -> None:
    model = Depthwise()
    pruner = BiFPPruner(model, images(), ignored_layers=[model.fc], total_steps=10)
    group = next(group for group in pruner.host_groups if group.channels.num_units == 4)
    assert masked(group.channels) == {("b.weight", 1)}
    assert {("a.weight", 0), ("dw.weight", 0), ("dw.bias", 0)} <= sites(group.channels).keys()
    assert group.least_units == 2, "a depthwise convolution of one channel would be read as an ordinary one"


class Flat(nn.Module):
    """Convolution, flatten, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 16, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.b(F.relu(self.a(x)).flatten(1))))
        return out


def test_a_flattened_channel_is_read_at_all_its_positions() -> None:
    model = Flat()
    group = groups_of(model, images(), ignored_layers=[model.fc])["a"]
    assert group.num_units == 4
    assert sites(group)["b.weight", 1] == {i: i // 16 for i in range(64)}


class FlatConcat(nn.Module):
    """Two branches concatenated and flattened: Torch-Pruning 1.6.1 ties channels that have nothing in common."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, first, 1), nn.Conv2d(3, second, 1)
        self.fc = nn.Linear((first + second) * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1).flatten(1))
        return out


@pytest.mark.parametrize("widths", [(5, 8), (8, 5), (6, 6)], ids=lambda widths: f"{widths[0]}-{widths[1]}")
def test_a_flattened_concatenation_is_refused_by_name(widths: tuple[int, int]) -> None:
    model = FlatConcat(*widths)
    with pytest.raises(UnsupportedModelError, match=r"\b[ab]\b.*ignored_layers"):
        groups_of(model, images(), ignored_layers=[model.fc])


def test_a_layer_norm_over_images_is_refused() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.fc = nn.Conv2d(3, 4, 1), nn.LayerNorm([4, 6, 6]), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.norm(self.a(x))).mean((2, 3)))

    model = Norm()
    with pytest.raises(UnsupportedModelError, match=r"norm .*several dimensions \(4, 6, 6\)|norm.*ignored_layers"):
        groups_of(model, images(), ignored_layers=[model.fc])
