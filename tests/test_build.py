"""Pruners by name: ours and the host's own through one call."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from fairprune_plugin import (
    AccuracyParity,
    BiLevelConfig,
    EqualOpportunity,
    FairPruneWarning,
    MultiplierConfig,
    PrunerConfig,
    build_pruner,
    pruner_names,
)
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.torch_pruning import BiFPPruner


class CNN(nn.Module):
    """Two convolutions with batch norm (bn_scale and growing_reg want one) and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.a(x)))
        out: Tensor = self.fc(torch.relu(self.bn2(self.b(x))).mean((2, 3)))
        return out


EXAMPLE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
KINDS = {
    "bifp": BiFPPruner,
    "magnitude": tp.pruner.BasePruner,
    "group_norm": tp.pruner.GroupNormPruner,
    "bn_scale": tp.pruner.BNScalePruner,
    "growing_reg": tp.pruner.GrowingRegPruner,
}
SPEC: dict[str, Any] = {
    "name": "bifp",
    "pruning_ratio": 0.25,
    "constraint": {"name": "equal_opportunity", "tolerance": 0.02},
    "total_steps": 10,
}


@pytest.fixture
def model() -> CNN:
    return CNN()


def test_the_names() -> None:
    assert pruner_names() == tuple(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_each_name_builds_its_pruner(model: CNN, name: str) -> None:
    spec: Any = {"name": name, "pruning_ratio": 0.25}
    pruner = build_pruner(spec, model, EXAMPLE, ignored_layers=[model.fc])
    assert type(pruner) is KINDS[name]
    assert pruner.pruning_ratio == 0.25
    assert model.fc in pruner.ignored_layers
    if name != "bifp":
        pruner.step()
        assert model.a.out_channels == 6
        assert model.b.out_channels == 6
        assert model.fc.out_features == 2


@pytest.mark.parametrize(
    "spec",
    [SPEC, PrunerConfig.parse(SPEC), PrunerConfig.parse(PrunerConfig.parse(SPEC).to_dict())],
    ids=["dict", "dataclass", "round-trip"],
)
def test_everything_of_the_spec_arrives(model: CNN, spec: Any) -> None:
    pruner = build_pruner(spec, model, EXAMPLE, ignored_layers=[model.fc])
    assert pruner.pruning_ratio == 0.25
    assert pruner.lagrangian.constraints == (EqualOpportunity(tolerance=0.02),)
    assert pruner.total_steps == 10
    assert pruner.target == "channels"


def test_nested_sections_arrive(model: CNN) -> None:
    two = [{"name": "equal_opportunity", "tolerance": 0.02}, {"name": "accuracy_parity", "tolerance": 0.1}]
    spec = {
        **SPEC,
        "constraint": two,
        "target": "params",
        "bilevel": {"schedule": "linear"},
        "multipliers": {"lr": 0.2},
        "global_pruning": True,
        "max_pruning_ratio": 0.75,
    }
    pruner = build_pruner(spec, model, EXAMPLE, ignored_layers=[model.fc])
    assert pruner.lagrangian.constraints == (EqualOpportunity(tolerance=0.02), AccuracyParity(tolerance=0.1))
    assert pruner.config == BiLevelConfig(schedule="linear")
    assert pruner.lagrangian.config == MultiplierConfig(lr=0.2)
    assert pruner.target == "params"
    assert pruner.global_pruning is True
    assert pruner.max_pruning_ratio == 0.75


def test_options_win_over_the_file(model: CNN) -> None:
    pruner = build_pruner(
        {**SPEC, "round_to": 2, "global_pruning": False},
        model,
        EXAMPLE,
        ignored_layers=[model.fc],
        pruning_ratio=0.5,
        global_pruning=True,
        total_steps=20,
        constraint=AccuracyParity(tolerance=0.1),
        target="macs",
    )
    assert pruner.pruning_ratio == 0.5
    assert pruner.global_pruning is True
    assert pruner.round_to == 2
    assert pruner.total_steps == 20
    assert pruner.lagrangian.constraints == (AccuracyParity(tolerance=0.1),)
    assert pruner.target == "macs"


@pytest.mark.parametrize("name", [name for name in KINDS if name != "bifp"])
def test_swapping_the_name_is_one_line(model: CNN, name: str) -> None:
    with pytest.warns(FairPruneWarning, match=f"'{name}' is Torch-Pruning's own.*constraint, total_steps") as caught:
        pruner = build_pruner({**SPEC, "name": name}, model, EXAMPLE, ignored_layers=[model.fc])
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points at the user's line"
    pruner.step()
    assert model.a.out_channels == 6


def test_swapping_the_name_says_that_the_target_is_lost(model: CNN) -> None:
    with pytest.warns(FairPruneWarning, match="does not know target: its ratio is a channel ratio"):
        build_pruner({"name": "magnitude", "target": "params"}, model, EXAMPLE, ignored_layers=[model.fc])


def test_the_hosts_pruners_without_ours_settings_warn_of_nothing(model: CNN) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_pruner({"name": "magnitude", "pruning_ratio": 0.5}, model, EXAMPLE, ignored_layers=[model.fc])


def test_sections_of_the_file_that_only_bifp_knows_do_not_stop_the_others(model: CNN) -> None:
    spec = {**SPEC, "name": "group_norm", "bilevel": {"schedule": "linear"}, "multipliers": {"lr": 0.1}}
    with pytest.warns(FairPruneWarning, match="does not know"):
        build_pruner(spec, model, EXAMPLE, ignored_layers=[model.fc])


def test_options_that_only_bifp_knows_do_not_stop_the_others(model: CNN) -> None:
    """Swapping a name swaps nothing else, wherever the arguments are written."""
    with pytest.warns(FairPruneWarning, match="does not know"):
        build_pruner(
            "magnitude", model, EXAMPLE, ignored_layers=[model.fc], constraint=EqualOpportunity(tolerance=0.02)
        )


def test_settings_of_a_host_pruner(model: CNN) -> None:
    pruner = build_pruner(
        {"name": "growing_reg", "reg": 1e-3, "delta_reg": 1e-4}, model, EXAMPLE, ignored_layers=[model.fc]
    )
    assert (pruner.base_reg, pruner.delta_reg) == (1e-3, 1e-4)
    importance = tp.importance.RandomImportance()
    assert build_pruner("magnitude", model, EXAMPLE, importance=importance).importance is importance


def test_host_pruners_do_not_share_dictionaries(model: CNN) -> None:
    first = build_pruner("magnitude", model, EXAMPLE, ignored_layers=[model.fc])
    second = build_pruner("magnitude", model, EXAMPLE, ignored_layers=[model.fc])
    assert first.num_heads is not second.num_heads
    assert first.out_channel_groups is not second.out_channel_groups


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("l1", {}, "unknown pruner 'l1': choose one of bifp, magnitude, group_norm, bn_scale, growing_reg"),
        ({"name": "BiFP"}, {}, "unknown pruner 'BiFP': choose one of bifp, "),
        ({"name": "bifp", "ratio": 0.5}, {}, "unknown argument 'ratio'.*pruning_ratio"),
        ("bifp", {"ratio": 0.5}, "unknown argument 'ratio'.*pruning_ratio"),
        ({"name": "magnitude", "ratio": 0.5}, {}, "unknown argument 'ratio'.*pruning_ratio"),
        ({"name": "magnitude", "pruning_ratio": 1.5}, {}, r"pruning_ratio in \[0, 1\)"),
        ({"name": "bifp", "target": "size"}, {}, "unknown target 'size': choose one of channels, params, macs"),
        ({"pruning_ratio": 0.5}, {}, "a mapping with a 'name'"),
        (None, {}, "expected a pruner's name"),
        ("bifp", {"host": "tensorflow"}, "unknown host 'tensorflow': choose one of torch_pruning"),
    ],
    ids=[
        "name", "case", "key", "option", "host-key", "host-ratio", "target", "nameless", "nothing", "host",
    ],
)  # fmt: skip
def test_errors_list_the_choices(model: CNN, spec: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_pruner(spec, model, EXAMPLE, **options)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bifp", ["importance", "constraint", "total_steps", "target", "bilevel", "multipliers", "self_check"]),
        ("growing_reg", ["importance", "reg", "delta_reg"]),
        ("bn_scale", ["importance", "reg", "group_lasso"]),
    ],
    ids=["bifp", "growing_reg", "bn_scale"],
)
def test_the_choices_include_what_only_this_pruner_takes(model: CNN, name: str, keys: list[str]) -> None:
    with pytest.raises(ConfigError, match="unknown argument 'constrain'") as caught:
        build_pruner({"name": name, "constrain": {}}, model, EXAMPLE)
    choices = str(caught.value).split("takes ")[1].split(", ")
    assert set(keys) <= set(choices)
    assert "pruning_ratio" in choices
    assert ("total_steps" in choices) == (name == "bifp")


def test_an_unknown_host_has_no_names() -> None:
    with pytest.raises(ConfigError, match="unknown host 'nnii': choose one of torch_pruning"):
        pruner_names("nnii")
