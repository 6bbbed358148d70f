"""Every argument of Torch-Pruning's ``BasePruner`` keeps its meaning; the host itself is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from driving import (
    SGD,
    SmallCNN,
    SmallMLP,
    batches_for,
    drive,
    example_of,
    judged,
    kept_of,
    pruner_of,
    small_pruner,
    train_case,
    widths,
)
from fairprune_plugin.torch_pruning import BiFPPruner

STEPS = 40


def frozen_scores(pruner: BiFPPruner) -> BiFPPruner:
    """Switches learning off: the scores stay those of the importance, so the host's own choice is the oracle."""
    pruner.engine.scores.update = lambda *_: None
    return pruner


def zoo_model(name: str) -> tuple[Any, nn.Module]:
    from zoo import CASES, randomise

    (case,) = [case for case in CASES if case.name == name]
    torch.manual_seed(1)
    return case, randomise(case.build())


def no_options(_: nn.Module) -> dict[str, Any]:
    return {}


OPTIONS: list[tuple[str, str, Callable[[nn.Module], dict[str, Any]]]] = [
    *[
        (f"local-{name}", name, no_options)
        for name in (
            "resnet-basic",
            "resnet-bottleneck",
            "resnext",
            "mobilenetv2",
            "densenet",
            "vgg-bn-flatten",
            "efficientnet-se",
            "unet",
            "groupnorm-convnet",
            "mlp-layernorm",
        )
    ],
    ("ratio-0.3", "resnet-basic", lambda _: {"pruning_ratio": 0.3}),
    ("ratio-0.7", "resnet-basic", lambda _: {"pruning_ratio": 0.7}),
    ("global", "resnet-basic", lambda _: {"global_pruning": True}),
    ("global-depthwise", "mobilenetv2", lambda _: {"global_pruning": True, "pruning_ratio": 0.3}),
    ("global-concat", "densenet", lambda _: {"global_pruning": True, "pruning_ratio": 0.3}),
    ("global-se", "efficientnet-se", lambda _: {"global_pruning": True, "pruning_ratio": 0.3}),
    ("isomorphic", "resnet-basic", lambda _: {"global_pruning": True, "isomorphic": True}),
    ("isomorphic-bottleneck", "resnet-bottleneck", lambda _: {"global_pruning": True, "isomorphic": True}),
    ("isomorphic-depthwise", "mobilenetv2", lambda _: {"global_pruning": True, "isomorphic": True}),
    ("round-to", "resnet-basic", lambda _: {"round_to": 4, "pruning_ratio": 0.4}),
    ("round-to-global", "resnet-basic", lambda _: {"round_to": 4, "pruning_ratio": 0.3, "global_pruning": True}),
    ("dict-layer", "resnet-basic", lambda m: {"pruning_ratio_dict": {m.stages[0].conv1: 0.25}}),
    ("dict-block", "resnet-basic", lambda m: {"pruning_ratio_dict": {m.stages[2]: 0.25}}),
    (
        "dict-tuple-local",
        "resnet-basic",
        lambda m: {"pruning_ratio_dict": {(m.stages[0].conv1, m.stages[1].conv1): 0.25}},
    ),
    (
        "dict-tuple-global",
        "resnet-basic",
        lambda m: {"global_pruning": True, "pruning_ratio_dict": {(m.stages[0].conv1, m.stages[4].conv1): 0.25}},
    ),
    (
        "dict-capped",
        "resnet-basic",
        lambda m: {"max_pruning_ratio": 0.5, "pruning_ratio_dict": {m.stages[0].conv1: 0.9}},
    ),
    ("ignored-block", "resnet-basic", lambda m: {"ignored_layers": [m.fc, m.stages[1]]}),
    ("heads", "hf-vit-heads", no_options),
    ("heads-bert", "hf-bert-heads", no_options),
    ("heads-global", "hf-vit-heads", lambda _: {"global_pruning": True}),
    ("ffn", "hf-bert-ffn", no_options),
]


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.filterwarnings("ignore:none of the .* mask steps taught the scores anything")
@pytest.mark.parametrize(("name", "options"), [o[1:] for o in OPTIONS], ids=[o[0] for o in OPTIONS])
def test_with_the_same_scores_the_channels_are_those_of_torch_pruning(
    name: str, options: Callable[[nn.Module], dict[str, Any]]
) -> None:

    case, ours = zoo_model(name)
    theirs = copy.deepcopy(ours)
    # Torch-Pruning takes layer norms' affines in the order of a Python set; on these widths it is sorted.
    importance = tp.importance.GroupMagnitudeImportance()
    needed = {"pruning_ratio": 0.5, "ignored_layers": case.ignored(theirs), **case.pruner_kwargs(theirs)}
    host = tp.pruner.BasePruner(theirs, case.inputs(), importance, **{**needed, **options(theirs)})
    host.step()

    pruner = frozen_scores(pruner_of(case, ours, importance=importance, total_steps=2, **options(ours)))
    train_case(pruner, case, ours, SGD(ours.parameters(), lr=0.0), steps=2)
    pruner.step()

    left, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert {k: tuple(v.shape) for k, v in left.items()} == {k: tuple(v.shape) for k, v in expected.items()}
    wrong = [k for k, v in left.items() if not torch.equal(v, expected[k])]
    assert wrong == []


def test_rounds_remove_what_torch_prunings_rounds_remove() -> None:
    case, ours = zoo_model("resnet-basic")

    theirs = copy.deepcopy(ours)
    host = tp.pruner.BasePruner(
        theirs,
        case.inputs(),
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.6,
        iterative_steps=3,
        ignored_layers=case.ignored(theirs),
    )
    pruner = pruner_of(case, ours, pruning_ratio=0.6, iterative_steps=3, total_steps=12)
    optimizer: torch.optim.Optimizer = SGD(ours.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        host.step()
        train_case(pruner, case, ours, optimizer, steps=4)
        pruner.step()
        optimizer = pruner.rebuild_optimizer(optimizer)
        assert widths(ours) == widths(theirs)
    assert pruner.current_step == 3


def test_interactive_yields_groups_that_the_caller_prunes() -> None:
    torch.manual_seed(3)
    model = SmallCNN()
    pruner = small_pruner(model, total_steps=STEPS)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, STEPS))
    roots = []
    for group in pruner.step(interactive=True):
        dep, idxs = group[0]
        roots.append((pruner.DG._module2name[dep.target.module], len(idxs)))
        group.prune()
    assert sorted(roots) == [("conv1", 4), ("conv2", 8), ("conv3", 8)]
    assert [model.conv1.out_channels, model.conv2.out_channels, model.fc.in_features] == [4, 8, 8]
    assert model(example_of(model)).shape == (4, 2)


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"target": "params"}, {"round_to": 4}], ids=str)
def test_max_pruning_ratio_is_a_floor_at_every_moment(options: dict[str, Any]) -> None:
    model = SmallCNN(width=16)
    pruner = small_pruner(
        model,
        pruning_ratio=0.6 if options.get("target") else 0.9,
        max_pruning_ratio=0.75,
        total_steps=STEPS,
        **options,
    )
    least = {"conv1": 4, "conv2": 8, "conv3": 8}
    seen = []

    def watch(_: int) -> None:
        seen.append({layer: int(kept_of(pruner, layer).sum()) for layer in least})

    drive(
        pruner,
        model,
        SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01),
        batches_for(model, STEPS),
        watch,
    )
    assert all(kept[layer] >= least[layer] for kept in seen for layer in least)
    pruner.step()
    assert {layer: model.get_submodule(layer).out_channels for layer in least} == seen[-1]
    if not options.get("target"):
        assert seen[-1] == least  # 0.9 was asked for, 0.75 is what may go


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("target", ["params", "macs"])
@pytest.mark.parametrize("name", ["resnet", "bottleneck", "mobilenetv2", "densenet", "unet"])
def test_a_size_budget_is_met_within_two_percent(name: str, target: str, ratio: float) -> None:
    from zoo import CASES, resnet_basic, unet

    zoo_name = {"resnet": "resnet-basic", "bottleneck": "resnet-bottleneck"}.get(name, name)
    (case,) = [case for case in CASES if case.name == zoo_name]
    # Wide enough that a single channel costs well under 2 % of what is left.
    wide = {"resnet": lambda: resnet_basic.ResNetBasic(width=16), "unet": lambda: unet.UNet(width=16)}
    model = wide.get(name, case.build)()
    macs, params = tp.utils.count_ops_and_params(model, case.inputs())
    pruner = pruner_of(case, model, pruning_ratio=ratio, target=target, total_steps=8)
    train_case(pruner, case, model, SGD(model.parameters(), lr=0.01), steps=8)
    pruner.step()
    macs_left, params_left = tp.utils.count_ops_and_params(model, case.inputs())
    asked = (1 - ratio) * (params if target == "params" else macs)
    assert (params_left if target == "params" else macs_left) == pytest.approx(asked, rel=0.02)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("name", ["hf-vit-heads", "hf-bert-heads"])
@pytest.mark.parametrize("options", [{"prune_num_heads": True, "prune_head_dims": False}, {}], ids=["heads", "dims"])
def test_attention_loses_heads_or_head_dims(name: str, options: dict[str, Any]) -> None:

    case, model = zoo_model(name)
    asked = {"prune_num_heads": False, "prune_head_dims": True, "head_pruning_ratio": 0.0, **options}
    if options:
        asked["head_pruning_ratio"] = 0.5
    pruner = pruner_of(case, model, total_steps=4, **asked)
    train_case(pruner, case, model, SGD(model.parameters(), lr=1e-3), steps=4)
    masked = judged(case, model)
    pruner.step()
    pruned = judged(case, model)
    assert (masked - pruned).abs().max() <= 1e-4 * masked.abs().max()
    layers = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in ("q_proj", "query", "v_proj", "value")]
    assert len(layers) == 4
    assert {layer.out_features for layer in layers} == {16}  # of 32: two of four heads, or four of eight dims
    heads = {
        m.num_attention_heads for m in model.modules() if type(m).__name__ in ("ViTAttention", "BertSelfAttention")
    }
    assert heads == ({2} if options else {4})


@pytest.mark.parametrize("ratio", [0.0, 0.01])
def test_a_ratio_that_hides_nothing_changes_nothing(ratio: float) -> None:
    model = SmallMLP()
    pruner = small_pruner(model, pruning_ratio=ratio, total_steps=4)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 4))
    masked = model.eval()(example_of(model))
    pruner.step()
    # 1 % of 16 channels is one channel: Torch-Pruning keeps int(16 · 0.99) = 15.
    assert model.fc1.out_features == (16 if ratio == 0 else 15)
    torch.testing.assert_close(model(example_of(model)), masked, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["cubic", "linear", "lottery_ticket", "constant"])
def test_schedules_serve_as_torch_prunings_own(name: str) -> None:
    from fairprune_plugin.masks.schedule import SCHEDULES

    model = SmallMLP()
    host = tp.pruner.BasePruner(
        model,
        example_of(model),
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.75,
        iterative_steps=3,
        iterative_pruning_ratio_scheduler=SCHEDULES[name],
        ignored_layers=[model.head],
    )
    seen = []
    for _ in range(3):
        host.step()
        seen.append(model.fc1.out_features)
    expected = {"cubic": [7, 4, 4], "linear": [12, 8, 4], "lottery_ticket": [10, 6, 4], "constant": [4, 4, 4]}
    assert seen == expected[name]
