"""Configs completed from the dependency graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.compression.pruning import L1NormPruner
from torch import Tensor, nn

from fairprune_plugin.errors import ConfigError, UnsupportedModelError
from fairprune_plugin.nni import configure_structured, speedup


class Residual(nn.Module):
    """stem and body share their channels; the branch behind them has its own."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1), norm(8) if norm is nn.BatchNorm2d else norm(2, 8)
        self.body, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wide, self.bn2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 2)
        for norm_ in (self.bn0, self.bn1, self.bn2):
            nn.init.normal_(norm_.weight)
            nn.init.normal_(norm_.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(x + self.bn1(self.body(x)))
        x = torch.relu(self.bn2(self.wide(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ASKED: list[dict[str, Any]] = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: entry for entry in entries for name in entry["op_names"]}


def test_groups_and_alignment_are_filled_in() -> None:
    entries = by_name(configure_structured(Residual(), X, ASKED))
    assert set(entries) == {"stem", "body", "wide", "bn0", "bn1", "bn2"}
    assert entries["stem"]["dependency_group_id"] == entries["body"]["dependency_group_id"]
    assert "dependency_group_id" not in entries["wide"]
    assert all(entries[name]["sparse_ratio"] == 0.5 for name in ("stem", "body", "wide"))
    for norm, layers in (("bn0", ("stem", "body")), ("bn1", ("stem", "body")), ("bn2", ("wide",))):
        for target in ("weight", "bias"):
            align = entries[norm]["target_settings"][target]["align"]
            assert align["module_name"] in layers
            assert (align["target_name"], align["dims"]) == ("weight", [0])


def test_the_model_is_left_as_it_was() -> None:
    model = Residual().train()
    model.stem.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    configure_structured(model, X, ASKED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not model.stem.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)


def test_nnis_own_pruner_becomes_exact() -> None:
    """A masked model with batch norm is the pruned one, which it is not without the completed config."""
    model = Residual().eval()
    pruner = L1NormPruner(model, list(configure_structured(model, X, ASKED)))
    _, masks = pruner.compress()
    masked = model(X)
    pruner.unwrap_model()
    small = speedup(model, masks, X)
    assert small.stem.out_channels == 4
    assert torch.allclose(small(X), masked, atol=1e-5)


def test_other_entries_pass_through() -> None:
    asked = [*ASKED, {"op_names": ["fc"], "sparse_ratio": 0.5, "granularity": "2:4"}]
    entries = by_name(configure_structured(Residual(), X, asked))
    assert entries["fc"] == {"op_names": ["fc"], "sparse_ratio": 0.5, "granularity": "2:4"}


def test_an_entry_of_the_users_own_for_a_norm_wins() -> None:
    own = {
        "op_names": ["bn2"],
        "target_names": ["weight"],
        "target_settings": {"weight": {"align": {"module_name": "wide", "target_name": "weight", "dims": [0]}}},
    }
    entries = configure_structured(Residual(), X, [*ASKED, own])
    assert [entry for entry in entries if entry["op_names"] == ["bn2"]] == [own]


def test_tied_channels_of_grouped_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    entries = by_name(configure_structured(model, X, [{"op_names": ["0", "2"], "sparse_ratio": 0.5}]))
    assert entries["0"]["internal_metric_block"] == 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            [{"op_types": ["Conv2d"], "sparse_ratio": 0.5, "exclude_op_names": ["body"]}],
            r"stem.*those of body.*leaves out",
        ),
        ([{"op_types": ["Conv2d", "Linear"], "sparse_ratio": 0.5}], r"fc \(its channels are the model's output\)"),
        (
            [{"op_names": ["stem"], "sparse_ratio": 0.5}, {"op_names": ["body"], "sparse_ratio": 0.3}],
            "stem and body lose channels together but are configured differently",
        ),
        ([{"op_names": ["fc"], "sparse_ratio": 0.5, "granularity": [1]}], "nothing to configure"),
        ([{"op_names": ["stem"], "sparse_ratio": 1}], "as a float"),
    ],
    ids=["half a group", "output", "different ratios", "no rows", "integer"],
)
def test_configs_in_conflict_with_the_graph(asked: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configure_structured(Residual(), X, asked)


def test_statistics_across_channels() -> None:
    with pytest.raises(UnsupportedModelError, match="cross bn0, a layer or group norm"):
        configure_structured(Residual(nn.GroupNorm), X, ASKED)


def test_a_layer_that_is_not_reached() -> None:
    model = Residual()
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match=r"spare \(the forward pass of the dummy input does not reach it\)"):
        configure_structured(model, X, ASKED)


def test_a_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 2, 1))
    with pytest.raises(ConfigError, match="in a transposed convolution are its inputs"):
        configure_structured(model, X, [{"op_types": ["ConvTranspose2d"], "sparse_ratio": 0.5}])


def test_a_softmax_over_channels() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Softmax(1), nn.Linear(8, 2))
    with pytest.raises(UnsupportedModelError, match="exclude_op_names"):
        configure_structured(model, torch.randn(3, 6), [{"op_names": ["0"], "sparse_ratio": 0.5}])
    configure_structured(model, torch.randn(3, 6), [{"op_names": ["0"], "sparse_ratio": 0.5}], self_check=False)
