"""The models of the evidence: shapes, exact masks (the pruner checks them on a copy), and whole runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from host_networks import randomise
from torch import Tensor, nn

from evidence.baselines import SCORES, ScoringContext, best_mask, remove_units
from evidence.models import SmallMobileNetV2, pruning_arguments, small_vit
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.engine.loaders.batches import default_forward
from fairprune_plugin.torch_pruning import BiFPPruner


def mobilenet() -> nn.Module:
    return SmallMobileNetV2(width=0.5)


def vit() -> nn.Module:
    model: nn.Module = small_vit(hidden=16, layers=2, heads=4)
    return model


MODELS = {"mobilenetv2": mobilenet, "vit": vit}


def data(count: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    y, s = torch.arange(12) % 2, torch.arange(12) // 2 % 2
    return [(torch.randn(12, 3, 32, 32, generator=generator) + y[:, None, None, None], y, s) for _ in range(count)]


def prune(model: nn.Module, **options: Any) -> BiFPPruner:
    return BiFPPruner(
        model,
        data(1)[0][0][:2],
        **{"pruning_ratio": 0.5, "total_steps": 6, **pruning_arguments(model), **options},
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [2, 5])
def test_logits_have_one_column_per_class(name: str, classes: int) -> None:
    model = (
        SmallMobileNetV2(num_classes=classes, width=0.5) if name == "mobilenetv2" else small_vit(num_classes=classes)
    )
    assert default_forward(model.eval(), torch.randn(3, 3, 32, 32)).shape == (3, classes)


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_run_prunes_and_outputs_of_the_mask_are_those_of_the_smaller_model(name: str) -> None:
    model = MODELS[name]()
    pruner = prune(model, constraint=EqualOpportunity(tolerance=0.02))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    result = pruner.fit(data(), optimizer, validation=data(1), progress=False)
    assert result.pruned.params == sum(p.numel() for p in result.model.parameters()) < 0.85 * result.dense.params
    assert result.pruned.channels == result.dense.channels // 2
    logits = default_forward(result.model.eval(), data(1)[0][0])
    assert logits.shape == (12, 2)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", MODELS)
def test_scores_rank_their_units_and_the_best_are_cut_out(name: str) -> None:
    model = randomise(MODELS[name]()).eval()
    pruner = prune(model)
    context = ScoringContext.of_pruner(pruner, data(2))
    x = data(1)[0][0]
    kept = []
    for score in ("group_norm", "taylor", "snip", "fairgrape", "fairprune", "fpgm"):
        kept.append(best_mask(pruner, SCORES[score](context)))
        assert int(kept[-1].sum()) == context.weights.num_units // 2
    assert any(not torch.equal(kept[0], other) for other in kept[1:])
    pruner.engine.set_mask(kept[2])
    with torch.no_grad():
        masked = default_forward(model, x)
        remove_units(pruner, kept[2])
        torch.testing.assert_close(default_forward(model, x), masked, rtol=1e-4, atol=1e-5)


def test_a_vit_can_keep_its_heads() -> None:
    model = vit()
    whole = pruning_arguments(model)
    assert len(whole["num_heads"]) == 2 * 3
    names = [group.channels.name for group in prune(model).host_groups]
    assert sum("attention" in name for name in names) == 2
    kept = vit()
    options = pruning_arguments(kept, head_pruning_ratio=0)
    pruner = BiFPPruner(kept, data(1)[0][0][:2], pruning_ratio=0.5, total_steps=6, **options)
    assert [group.channels.name.split(".")[-1] for group in pruner.host_groups] == ["fc1", "fc1"]


def test_a_vits_parameter_budget_counts_the_heads_that_go() -> None:
    """With all heads kept half of the parameters could not go: the floors of the feed-forward layers alone leave more."""
    model = small_vit()
    pruner = prune(model, target="params")
    scores = SCORES["group_norm"](ScoringContext.of_pruner(pruner, data(1)))
    dense = sum(p.numel() for p in model.parameters())
    remove_units(pruner, best_mask(pruner, scores))
    assert sum(p.numel() for p in model.parameters()) / dense == pytest.approx(0.5, abs=0.02)


def test_the_small_stack_is_the_papers_block() -> None:
    model = SmallMobileNetV2()
    features = model.features(torch.randn(1, 3, 32, 32))
    assert features.shape == (1, 256, 4, 4)
    wide = copy.deepcopy(SmallMobileNetV2(width=2.0))
    assert wide.classifier.in_features == 512
    with pytest.raises(ValueError, match="width > 0"):
        SmallMobileNetV2(width=0)
