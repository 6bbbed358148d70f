"""Arguments and models that cannot work: refused, or warned of, before any training; each message names the fix."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from constrained_mlp import batch, constrained
from torch import Tensor, nn

from driving import SGD, SmallMLP, batches_for, drive, example_of
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import ConfigError, FairPruneError, FairPruneWarning, UnsupportedModelError
from fairprune_plugin.torch_pruning import BiFPPruner

NOT_A_RATIO = [-0.1, 1, 1.0, 1.5, float("nan"), float("inf"), "0.5", True, None]


@pytest.mark.parametrize("ratio", [r for r in NOT_A_RATIO if r is not None], ids=repr)
def test_pruning_ratio_outside_its_range(ratio: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected pruning_ratio in \[0, 1\), the share that is removed, got "):
        constrained(pruning_ratio=ratio)


def test_pruning_ratio_of_none() -> None:
    with pytest.raises(ConfigError, match="pruning_ratio"):
        constrained(pruning_ratio=None)


@pytest.mark.parametrize("name", ["pruning_ratio_dict", "ch_sparsity_dict", "head_pruning_ratio_dict"])
def test_ratios_of_layers_outside_their_range(name: str) -> None:
    model = SmallMLP()
    with pytest.raises(ConfigError, match=rf"every ratio in {name} in \[0, 1\)"):
        constrained(model, **{name: {model.fc1: 1.0}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_pruning_ratio": 0}, r"max_pruning_ratio in \(0, 1\], got 0"),
        ({"max_pruning_ratio": 1.5}, r"max_pruning_ratio in \(0, 1\], got 1.5"),
        ({"max_pruning_ratio": "1"}, r"max_pruning_ratio in \(0, 1\], got '1'"),
        ({"iterative_steps": 0}, "iterative_steps as a positive whole number, got 0"),
        ({"round_to": 0}, "round_to as a positive whole number, got 0"),
        ({"round_to": 2.5}, "round_to as a positive whole number, got 2.5"),
        ({"self_check": "x"}, "self_check as True or False, got 'x'"),
        ({"process_group": 3}, r"process_group as None or what torch\.distributed\.new_group\(\) returns, got 3"),
        ({"target": "parameters"}, "unknown target 'parameters': choose one of channels, params, macs"),
        ({"prune_num_heads": True}, "pass prune_head_dims=False"),
        ({"sparsity": 0.5}, "unknown argument 'sparsity': .* takes .*pruning_ratio.*round_to"),
        ({"bilevel": {"warm_up": 0.1}}, "unknown key 'warm_up' .*warmup"),
        ({"bilevel": {"schedule": "square"}}, "unknown schedule 'square': choose one of cubic, linear"),
        ({"multipliers": {"learning_rate": 1}}, "unknown key 'learning_rate'"),
        ({"total_steps": 0}, "total_steps as a positive whole number of training steps, got 0"),
        ({"total_steps": 2.0}, "total_steps as a positive whole number of training steps, got 2.0"),
        ({"total_steps": 1}, "at least 2 training steps"),
        ({"total_steps": 3, "iterative_steps": 3}, "at least 2 training steps"),
        ({"constraint": "equal_opportunity"}, "a constraint needs a tolerance"),
        ({"target": "params", "pruning_ratio": 0.99}, "every layer at its floor"),
        ({"target": "params", "max_pruning_ratio": 0.25, "pruning_ratio": 0.6}, "lower the floor"),
    ],
    ids=lambda value: str(value)[:48] if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        constrained(**options)


@pytest.mark.parametrize("tolerance", [-0.01, 1.01, float("nan"), "0.1", True, None], ids=repr)
def test_tolerance_outside_its_range(tolerance: Any) -> None:
    with pytest.raises(ConfigError, match=r"tolerance.* in \[0, 1\], got"):
        EqualOpportunity(tolerance=tolerance)


class NoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize("make", [NoLayers, lambda: nn.Sequential(nn.ReLU())], ids=["parameter", "nothing"])
@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")  # the host's, about the parameter
def test_no_prunable_layer(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"no layer is left to prune: .*ignore fewer layers"):
        BiFPPruner(make(), torch.randn(2, 6), pruning_ratio=0.5, total_steps=4)


def test_everything_ignored() -> None:
    model = SmallMLP()
    with pytest.raises(ConfigError, match="no layer is left to prune: every group of channels is in ignored_layers"):
        constrained(model, ignored_layers=[model])


def test_only_an_output_layer() -> None:
    with (
        pytest.warns(FairPruneWarning, match="outputs"),
        pytest.raises(ConfigError, match="feeds the model's output"),
    ):
        BiFPPruner(nn.Sequential(nn.Linear(6, 2)), torch.randn(2, 6), pruning_ratio=0.5, total_steps=4)


def test_an_output_layer_that_is_not_ignored_is_protected() -> None:
    model = SmallMLP()
    with pytest.warns(FairPruneWarning, match=r"channels of head are the model's outputs .*ignored_layers=\[…\]"):
        _, pruner = constrained(model, ignored_layers=None)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 8))
    pruner.step()  # does not say it again: warnings are errors here
    assert (model.fc2.out_features, model.head.out_features) == (8, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    model = SmallMLP().to(dtype)
    with pytest.raises(ConfigError, match=r"fc1.weight .*half precision.*model.float\(\) .*autocast"):
        BiFPPruner(model, example_of(model).to(dtype), ignored_layers=[model.head], pruning_ratio=0.5)


def test_data_parallel_wrapper() -> None:
    model = SmallMLP()
    with pytest.raises(ConfigError, match=r"data-parallel wrapper: pass model\.module"):
        BiFPPruner(nn.DataParallel(model), example_of(model), pruning_ratio=0.5)


@pytest.mark.parametrize("thing", [None, "resnet18", SmallMLP], ids=["None", "name", "class"])
def test_not_a_model(thing: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected an nn.Module to prune, got"):
        BiFPPruner(thing, torch.randn(2, 6), pruning_ratio=0.5)


def test_frozen_layers_warn() -> None:
    model = SmallMLP()
    model.fc1.requires_grad_(False)
    with pytest.warns(FairPruneWarning, match=r"2 parameters are frozen \(first: fc1.weight\).*they are not trained"):
        constrained(model)


def test_a_refused_model_is_untouched() -> None:
    model = SmallMLP()
    model.eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(FairPruneError):
        constrained(model, target="params", pruning_ratio=0.99)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_round_to_above_every_width_is_said() -> None:
    with pytest.warns(FairPruneWarning, match="nothing will be pruned: round_to=64 keeps every layer"):
        constrained(round_to=64)
    constrained(round_to=64, pruning_ratio=0.0)  # warnings are errors here


def test_tied_layers_are_named_all_at_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
            self.layers[2].weight = self.layers[1].weight
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x).relu()
            y: Tensor = self.head(x)
            return y

    model = Tied()
    names = r"\[model\.layers\[1\], model\.layers\[2\], model\.layers\[0\]\]"
    with pytest.raises(UnsupportedModelError, match=f"are one shared parameter.*add {names} to ignored_layers"):
        BiFPPruner(model, torch.randn(2, 6), ignored_layers=[model.head], pruning_ratio=0.5)


def test_wrap_that_cannot_be_called() -> None:
    model, pruner = constrained()
    with pytest.raises(ConfigError, match="expected wrap as a function model → its data-parallel wrapper, got 3"):
        pruner.fit([batch(model)], SGD(model.parameters(), lr=0.1), wrap=3, progress=False)


@pytest.mark.parametrize("name", ["num_heads", "out_channel_groups"])
def test_channels_that_groups_or_heads_cannot_share(name: str) -> None:
    model = SmallMLP()
    with pytest.raises(ConfigError, match="5 channel groups or heads cannot share"):
        constrained(model, **{name: {model.fc1: 5}})


@pytest.mark.parametrize("name", ["pruning_ratio_dict", "head_pruning_ratio_dict"])
def test_a_class_is_no_layer(name: str) -> None:
    with pytest.raises(ConfigError, match=f"expected layers of the model as the keys of {name}"):
        constrained(**{name: {nn.Linear: 0.5}})
