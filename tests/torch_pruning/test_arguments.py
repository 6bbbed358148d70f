"""Torch-Pruning's own arguments: what is known, what is copied, what is refused."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
import torch_pruning as tp
from host_networks import MLP, prune_mlp
from torch import nn

from driving import SmallMLP, example_of
from fairprune_plugin import build_pruner
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.arguments import OWN, check_model, check_ratio, check_target, host_arguments

SHARED = ("num_heads", "in_channel_groups", "out_channel_groups", "channel_groups")


def test_every_argument_of_the_host_is_known() -> None:
    parameters = inspect.signature(tp.pruner.BasePruner.__init__).parameters
    known = [name for name in parameters if name not in ("self", "model", "example_inputs", "importance")]
    assert len(known) > 20
    for name in known:
        if name != "prune_num_heads":  # needs prune_head_dims=False beside it
            default = parameters[name].default
            arguments = host_arguments({name: default})
            assert arguments[name] == default
    with pytest.raises(ConfigError) as caught:
        host_arguments({"sparsity": 0.5})
    assert all(name in str(caught.value) for name in known), "the message lists every choice"


@pytest.mark.parametrize("name", SHARED)
def test_dictionaries_are_fresh(name: str) -> None:
    """Torch-Pruning's defaults are shared by all pruners of a process and it writes into those it is given."""
    first, second = host_arguments({}), host_arguments({})
    assert first[name] == {}
    assert first[name] is not second[name]
    given = {nn.Linear(1, 1): 2}
    taken = host_arguments({name: given})[name]
    assert taken == given
    assert taken is not given


def test_pruners_do_not_leak_into_the_hosts_defaults() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = nn.Conv2d(4, 8, 1, groups=2), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.a(x)).mean((2, 3)))

    defaults = inspect.signature(tp.pruner.BasePruner.__init__).parameters
    before = {name: dict(defaults[name].default) for name in SHARED}
    model = Grouped()
    BiFPPruner(model, torch.randn(1, 4, 3, 3), ignored_layers=[model.fc], total_steps=10)
    assert {name: dict(defaults[name].default) for name in SHARED} == before


def test_unwrapped_parameters_may_be_a_dictionary() -> None:
    parameter = nn.Parameter(torch.ones(3))
    pairs = host_arguments({"unwrapped_parameters": {parameter: 0}})["unwrapped_parameters"]
    assert [(id(p), dim) for p, dim in pairs] == [(id(parameter), 0)]
    given = [(parameter, 0)]
    assert host_arguments({"unwrapped_parameters": given})["unwrapped_parameters"] == given


@pytest.mark.parametrize("name", ["pruning_ratio", "ch_sparsity", "head_pruning_ratio"])
@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, math.nan, "half", True, False, (0.5,)], ids=repr)
def test_ratios_outside_their_range(name: str, ratio: Any) -> None:
    with pytest.raises(ConfigError, match=rf"expected {name} in \[0, 1\), the share that is removed"):
        host_arguments({name: ratio})


@pytest.mark.parametrize("name", ["pruning_ratio_dict", "ch_sparsity_dict", "head_pruning_ratio_dict"])
def test_every_ratio_of_a_dictionary_is_checked(name: str) -> None:
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    host_arguments({name: {first: 0.5, second: 0}})
    with pytest.raises(ConfigError, match=rf"every ratio in {name} in \[0, 1\).*got 1\.5"):
        host_arguments({name: {first: 0.5, second: 1.5}})


@pytest.mark.parametrize("ratio", [0, 0.0, 0.5, 0.999], ids=repr)
def test_ratios_within_their_range(ratio: float) -> None:
    check_ratio("pruning_ratio", ratio)


def test_heads_and_head_dims_exclude_each_other() -> None:
    for options in ({"prune_num_heads": True}, {"prune_num_heads": True, "prune_head_dims": True}):
        with pytest.raises(ConfigError, match="prune_head_dims=False to remove whole heads, or prune_num_heads=False"):
            host_arguments(options)
    assert host_arguments({"prune_num_heads": True, "prune_head_dims": False})["prune_num_heads"] is True


def test_targets() -> None:
    for target in ("channels", "params", "macs"):
        check_target(target)
    with pytest.raises(ConfigError, match="unknown target 'latency': choose one of channels, params, macs"):
        check_target("latency")


def test_models() -> None:
    check_model(MLP())
    check_model(MLP().double())
    with pytest.raises(ConfigError, match=r"expected an nn\.Module to prune, got dict"):
        check_model({})
    mixed = MLP()
    mixed.b.half()
    with pytest.raises(ConfigError, match=r"b\.weight \(and 1 more\) is in half precision"):
        check_model(mixed)


def test_options_stay_with_the_caller() -> None:
    """A pruner may be built twice from the same keyword arguments."""
    model = MLP()
    ignored, heads = [model.fc], {}
    options: dict[str, Any] = {"ignored_layers": ignored, "num_heads": heads, "pruning_ratio_dict": {model.a: 0.25}}
    for _ in range(2):
        prune_mlp(model, **options)
    assert ignored == [model.fc]
    assert heads == {}
    assert options["pruning_ratio_dict"] == {model.a: 0.25}


@pytest.mark.parametrize(
    ("ignored", "message"),
    [
        (
            [nn.Linear],
            r"got <class 'torch.nn.modules.linear.Linear'>: pass the layers themselves, such as \[model\.fc\]",
        ),
        (["fc"], "got 'fc': pass the layers themselves"),
        ([None], "got None: pass the layers themselves"),
        ("fc", r"ignored_layers as a list such as \[model\.fc\], got str"),
        (nn.Linear(1, 1), r"ignored_layers as a list such as \[model\.fc\], got Linear"),
        (3, r"ignored_layers as a list such as \[model\.fc\], got int"),
    ],
    ids=["type", "name", "none", "string", "bare-layer", "number"],
)
def test_what_the_host_would_fail_to_ignore_without_a_word(ignored: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        host_arguments({"ignored_layers": ignored})


def test_modules_and_parameters_can_be_ignored() -> None:
    layer = nn.Linear(1, 1)
    for ignored in ([layer, layer.weight], (layer,), [], None):
        assert host_arguments({"ignored_layers": ignored})["ignored_layers"] is ignored


def test_our_own_arguments_are_those_of_the_pruner() -> None:
    named = [
        parameter.name
        for parameter in inspect.signature(BiFPPruner.__init__).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    assert sorted(OWN) == sorted(named)


@pytest.mark.parametrize(
    "form", [list, iter, lambda layers: (layer for layer in layers)], ids=["list", "iter", "generator"]
)
def test_ignored_layers_may_be_read_once_only(form: Any) -> None:
    model = SmallMLP()
    pruner = BiFPPruner(model, example_of(model), ignored_layers=form([model.fc1, model.head]), self_check=False)
    roots = [group.root for group in pruner.host_groups]
    assert roots
    assert model.fc1 not in roots
    host = build_pruner("magnitude", model, example_of(model), ignored_layers=form([model.fc1, model.head]))
    before = model.fc1.out_features, model.head.out_features
    host.step()
    assert (model.fc1.out_features, model.head.out_features) == before
