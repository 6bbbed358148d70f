"""The projection under config_list's goals, with NNI's own mask generator as the oracle where it works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.compression import TorchEvaluator
from nni.compression.pruning.tools import generate_sparsity
from torch import Tensor, nn

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.nni import BiFPPruner
from nni_toys import evaluator, mlp

GROUPED = {"dependency_group_id": "a"}
CONFIGS: dict[str, list[dict[str, Any]]] = {
    "rows": [{"op_names": ["0", "3"], "sparse_ratio": 0.4}],
    "columns": [{"op_names": ["0", "3"], "sparse_ratio": 0.4, "granularity": "in_channel"}],
    "weights": [{"op_names": ["0", "3"], "sparse_ratio": 0.37, "granularity": [1]}],
    "tiles": [{"op_names": ["0", "3"], "sparse_ratio": 0.5, "granularity": [4, 2]}],
    "dependency": [{"op_names": ["0", "3"], "sparse_ratio": 0.4, **GROUPED}],
    "dependency wins over global": [{"op_names": ["0", "3"], "sparse_ratio": 0.4, **GROUPED, "global_group_id": 1}],
    "floor": [{"op_names": ["0"], "sparse_ratio": 0.2, "min_sparse_ratio": 0.6}],
    "cap": [{"op_names": ["0"], "sparse_ratio": 0.9, "max_sparse_ratio": 0.3}],
    "bounds as integers": [{"op_names": ["0"], "sparse_ratio": 0.9, "min_sparse_ratio": 0, "max_sparse_ratio": 1}],
    "one entry each": [{"op_names": ["0"], "sparse_ratio": 0.2}, {"op_names": ["3"], "sparse_ratio": 0.7}],
    "settings of a target": [{"op_types": ["Linear"], "target_settings": {"weight": {"sparse_ratio": 0.3}}}],
    "exclusion": [{"op_types": ["Linear"], "sparse_ratio": 0.5, "exclude_op_names": ["3"]}],
    "batch norm aligned": [
        {"op_names": ["0"], "sparse_ratio": 0.5},
        {
            "op_names": ["1"],
            "target_names": ["weight", "bias"],
            "target_settings": {
                key: {"align": {"module_name": "0", "target_name": "weight", "dims": [0]}} for key in ("weight", "bias")
            },
        },
    ],
}


def build(entries: list[dict[str, Any]], model: nn.Module | None = None) -> BiFPPruner:
    model = model or mlp()
    return BiFPPruner(model, entries, evaluator(model), 2, 6)


def masks_at(pruner: BiFPPruner, scores: Tensor) -> dict[tuple[str, str], Tensor]:
    keep = pruner.goals.project(scores)
    return {key: pruner.units.mask(key, keep) for key in pruner.units.keys}


@pytest.mark.parametrize("entries", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_masks_are_those_nni_would_make_of_the_scores(entries: list[dict[str, Any]], progress: float) -> None:
    pruner = build(entries)
    assert isinstance(pruner.evaluator, TorchEvaluator)
    pruner._update_sparse_goals_by_ratio(progress)
    torch.manual_seed(5)
    scores = torch.rand(pruner.weights.num_units)
    metrics: dict[str, dict[str, Tensor]] = {}
    for unit_set, offset in zip(pruner.units.sets, pruner.weights.offsets, strict=False):
        values = scores[offset : offset + unit_set.group.num_units]
        for module, target in unit_set.keys:
            space = pruner._target_spaces[module][target]
            shape = space._scaler.shrink(space.target, keepdim=True).shape
            metrics.setdefault(module, {})[target] = values.reshape(shape)
    expected = generate_sparsity(metrics, pruner._target_spaces)
    found = masks_at(pruner, scores)
    assert found
    for (module, target), mask in found.items():
        shape = pruner._target_spaces[module][target].shape
        assert torch.equal(mask.expand(shape), expected[module][target].expand(shape)), (module, target)


def test_a_global_budget_is_shared_and_capped() -> None:
    """NNI ranks all weights together; its own generator takes one weight more or less than asked for."""
    entries = [{"op_names": ["0", "3"], "sparse_ratio": 0.5, "granularity": [1], "global_group_id": 1}]
    pruner = build(entries)
    first, total = 16 * 8, 16 * 8 + 16 * 16
    scores = torch.rand(total)
    scores[:first] *= 0.01  # layer 0 would go first, and wholly
    hidden = ~pruner.goals.project(scores)
    assert int(hidden.sum()) == total // 2
    assert int(hidden[:first].sum()) == first - 1  # one always stays
    capped = build([{**entries[0], "max_sparse_ratio": 0.75}])
    hidden = ~capped.goals.project(scores)
    assert int(hidden[:first].sum()) == int(first * 0.75)
    assert int(hidden.sum()) == total // 2


def test_a_global_budget_counts_weights_of_rows() -> None:
    pruner = build([{"op_names": ["0", "3"], "sparse_ratio": 0.5, "global_group_id": 1}])
    keep = pruner.goals.project(torch.rand(32))
    gone = int((~keep[:16]).sum()) * 8 + int((~keep[16:]).sum()) * 16
    assert 0.5 * 384 - 16 < gone <= 0.5 * 384


def test_two_of_four() -> None:
    pruner = build([{"op_names": ["0", "3"], "sparse_ratio": 0.5, "granularity": "2:4"}])
    for progress, shown in ((0.0, 4), (0.5, 3), (1.0, 2)):
        pruner._update_sparse_goals_by_ratio(progress)
        for (_, target), mask in masks_at(pruner, torch.rand(pruner.weights.num_units)).items():
            if target == "weight":
                assert (mask.reshape(-1, 4).sum(1) == shown).all()


def test_a_threshold_is_a_share_of_the_mean_score() -> None:
    pruner = build([{"op_names": ["0"], "sparse_threshold": 0.5}])
    scores = torch.tensor([1.0] * 8 + [9.0] * 8)
    assert (~pruner.goals.project(scores * 1e-5))[:8].all()
    pruner._update_sparse_goals_by_ratio(0.1)
    assert pruner.goals.project(scores).all()


def test_tied_blocks_of_a_dependency_group() -> None:
    """``internal_metric_block``: every block loses the same channels, which satisfies NNI's equal numbers."""
    pruner = build([{"op_names": ["0", "3"], "sparse_ratio": 0.5, **GROUPED, "internal_metric_block": 4}])
    assert pruner.weights.num_units == 4
    found = masks_at(pruner, torch.tensor([3.0, 1, 2, 4]))
    assert found["0", "weight"].flatten().tolist() == [1, 0, 0, 1] * 4
    assert torch.equal(found["0", "weight"], found["3", "weight"])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (
            [{"op_names": ["0"], "sparse_ratio": 0.5, **GROUPED}, {"op_names": ["3"], "sparse_ratio": 0.2, **GROUPED}],
            "share a dependency_group_id but have sparse ratios",
        ),
        ([{"op_names": ["3", "6"], "sparse_ratio": 0.5, **GROUPED}], "equally many channels"),
        (
            [
                {"op_names": ["0"], "sparse_ratio": 0.5, "global_group_id": 1},
                {"op_names": ["3"], "sparse_ratio": 0.2, "global_group_id": 1},
            ],
            "different sparse ratios",
        ),
        ([{"op_names": ["0"], "sparse_ratio": 0.5, "granularity": [5, 5]}], "does not divide the shape"),
        ([{"op_names": ["0"], "sparse_ratio": 0.5, "granularity": [1, 1, 1]}], "more dimensions"),
        ([{"op_names": ["0"], "sparse_ratio": 0.5, **GROUPED, "internal_metric_block": 3}], "does not divide"),
        ([{"op_names": ["0"]}], "prunes nothing"),
        (
            [
                {"op_names": ["0"], "sparse_ratio": 0.5},
                {
                    "op_names": ["1"],
                    "target_settings": {
                        "weight": {"align": {"module_name": "3", "target_name": "weight", "dims": [0]}}
                    },
                },
            ],
            "which is not in config_list",
        ),
    ],
    ids=["ratios", "widths", "global ratios", "blocks", "dimensions", "metric blocks", "no goal", "alignment"],
)
def test_goals_that_do_not_fit(entries: list[dict[str, Any]], words: str) -> None:
    model = mlp()
    with pytest.raises(ConfigError, match=words):
        build(entries, model)
    assert not hasattr(model[0], "_nni_wrapper")


@pytest.mark.parametrize("traced", [False, True])
def test_blocks_that_lose_the_same_channels_do_so_with_a_graph_too(traced: bool) -> None:
    """The graph knows of no blocks: its single channels are not what was asked for."""
    torch.manual_seed(0)
    model = mlp()
    config: list[dict[str, Any]] = [{"op_names": ["0"], "sparse_ratio": 0.5, "internal_metric_block": 4}]
    inputs = torch.randn(4, model[0].in_features) if traced else None
    pruner = BiFPPruner(model, config, evaluator(model), dummy_input=inputs)
    _, masks = pruner.compress(8, None)
    rows = masks["0"]["weight"].flatten(1)[:, 0].reshape(4, -1)
    assert 0 < float(rows.mean()) < 1
    assert all(torch.equal(block, rows[0]) for block in rows)
