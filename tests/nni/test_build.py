"""NNI's pruners and ours by name, from what an experiment's search space can hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.compression import pruning

from fairprune_plugin import EqualOpportunity, FairPruneWarning, PrunerConfig, build_pruner, pruner_names
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.nni import BiFPPruner
from nni_toys import batches, config, evaluator, group_of, mlp

X = batches(1)[0][0]
CLASSES = {
    "bifp": BiFPPruner,
    "level": pruning.LevelPruner,
    "l1": pruning.L1NormPruner,
    "l2": pruning.L2NormPruner,
    "fpgm": pruning.FPGMPruner,
    "slim": pruning.SlimPruner,
    "taylor": pruning.TaylorPruner,
    "movement": pruning.MovementPruner,
}
EVERYTHING: dict[str, Any] = {"sensitive": group_of, "training_steps": 4, "warmup_step": 1, "cooldown_begin_step": 6}


def test_the_names() -> None:
    assert pruner_names("nni") == tuple(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_one_call_for_every_name(name: str) -> None:
    """A search over names passes the same arguments to all of them."""
    model = mlp()
    entries = [{"op_names": ["0", "3"]}] if name != "slim" else [{"op_names": ["1"]}]
    pruner = build_pruner(
        {"name": name, "pruning_ratio": 0.25},
        model,
        host="nni",
        config_list=entries,
        evaluator=evaluator(model),
        **EVERYTHING,
    )
    assert type(pruner) is CLASSES[name]
    steps = 8 if name in ("bifp", "movement") else None
    _, masks = pruner.compress(steps, None)
    assert all(masks[entry]["weight"].mean() == 0.75 for entry in entries[0]["op_names"])


def test_a_goal_in_the_config_wins() -> None:
    model = mlp()
    pruner = build_pruner(
        {"name": "l1", "pruning_ratio": 0.25},
        model,
        host="nni",
        config_list=[{"op_names": ["0"], "sparse_ratio": 0.5}, {"op_names": ["3"]}],
    )
    _, masks = pruner.compress()
    assert masks["0"]["weight"].mean() == 0.5
    assert masks["3"]["weight"].mean() == 0.75


def test_everything_that_a_file_can_say_about_bifp() -> None:
    model = mlp()
    spec = {
        "name": "bifp",
        "pruning_ratio": 0.5,
        "constraint": {"name": "equal_opportunity", "tolerance": 0.02},
        "total_steps": 40,
        "bilevel": {"warmup": 0.1, "ramp_end": 0.5},
        "multipliers": {"lr": 0.3},
        "config_list": [{"op_names": ["0", "3"], "granularity": "unstructured"}],
    }
    assert PrunerConfig.parse(PrunerConfig.parse(spec).to_dict()) == PrunerConfig.parse(spec)
    pruner = build_pruner(spec, model, host="nni", evaluator=evaluator(model), sensitive=group_of)
    assert pruner.lagrangian.constraints == (EqualOpportunity(tolerance=0.02),)
    assert pruner.lagrangian.config.lr == 0.3
    assert (pruner.warmup_step, pruner.cooldown_begin_step) == (4, 20)
    _, masks = pruner.compress(40, None)
    assert masks["0"]["weight"].mean() == 0.5


@pytest.mark.parametrize("name", ["bifp", "l1"])
def test_example_inputs_complete_the_config(name: str) -> None:
    model = mlp()
    pruner = build_pruner(
        {"name": name}, model, X, host="nni", config_list=config(), evaluator=evaluator(model), **EVERYTHING
    )
    _, masks = pruner.compress(8 if name == "bifp" else None, None)
    assert torch.equal(masks["1"]["weight"].flatten(), masks["0"]["weight"].reshape(16, -1)[:, 0])


def test_nnis_own_are_not_constrained() -> None:
    model = mlp()
    with pytest.warns(FairPruneWarning, match="nothing constrains its fairness"):
        build_pruner(
            {"name": "l1", "constraint": {"name": "accuracy_parity", "tolerance": 0.1}},
            model,
            host="nni",
            config_list=config(),
        )


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("l3", {}, "unknown pruner 'l3': choose one of bifp, level"),
        ("l1", {"config_list": None}, "list of dicts"),
        ({"name": "l1", "target": "params"}, {}, "global_group_id"),
        ("bifp", {}, "needs evaluator="),
        ("taylor", {}, "needs evaluator, training_steps"),
        ("l1", {"round_to": 8}, "unknown argument 'round_to'"),
        ("l1", {"config_list": config(granularity="2:4")}, "has no '2:4'"),
        ("l1", {"config_list": config(sparse_ratio=1)}, "as a float"),
    ],
)
def test_mistakes(spec: Any, options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_pruner(spec, mlp(), host="nni", **{"config_list": config(), **options})


def test_no_config() -> None:
    with pytest.raises(ConfigError, match="needs config_list="):
        build_pruner("l1", mlp(), host="nni")


def test_unknown_host() -> None:
    with pytest.raises(ConfigError, match="unknown host 'nnni': choose one of torch_pruning, nni"):
        build_pruner("l1", mlp(), host="nnni")
