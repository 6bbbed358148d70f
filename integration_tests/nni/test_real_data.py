"""NNI's BiFP pruner on real data: the census table, and CelebA's faces where a machine has them."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from torch import Tensor, nn

from fairprune_plugin import DemographicParity, EqualOpportunity, FairPruneWarning
from fairprune_plugin.engine.measure.evaluate import evaluate
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.nni import BiFPPruner, TorchEvaluator, configure_structured, speedup

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "examples") not in sys.path:
    sys.path.insert(0, str(ROOT / "examples"))
DATA = Path(os.environ.get("FAIRPRUNE_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("nni").setLevel(logging.ERROR)


def evaluator(model: nn.Module, loader: Iterable[Any], lr: float) -> TorchEvaluator:
    """Momentum SGD over a loader, round after round."""

    def training_func(
        model: nn.Module, optimizer: Any, step: Any, _: Any, max_steps: int | None, max_epochs: int | None
    ) -> None:
        model.train()
        done = 0
        while True:
            for batch in loader:
                optimizer.zero_grad()
                step(batch, model).backward()
                optimizer.step()
                done += 1
                if done == max_steps:
                    return

    def training_step(batch: Any, model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    return TorchEvaluator(training_func, optimizer, training_step)


@pytest.mark.skipif(importlib.util.find_spec("xai") is None, reason="the census table ships in the package xai")
@pytest.mark.parametrize("granularity", ["out_channel", "unstructured", "2:4"])
def test_census(granularity: str) -> None:
    """With the constraint the gap on unseen people is smaller than without it, at the same sparsity."""
    from census.data import load_census
    from census.network import mlp, train

    census = load_census()
    torch.manual_seed(0)
    dense = mlp(census.num_features)
    train(dense, census.train, steps=150, lr=0.05, seed=0)
    constraint = DemographicParity(tolerance=0.05)
    structured = granularity == "out_channel"
    gaps = {}
    for fair in (False, True):
        model = copy.deepcopy(dense)
        exclude = ["9"] if granularity != "2:4" else ["0", "9"]  # the output, and the odd number of features
        config: list[dict[str, Any]] = [
            {"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": granularity, "exclude_op_names": exclude}
        ]
        example = census.train.x[:16]
        if structured:
            config = configure_structured(model, example, config)
        options: dict[str, Any] = {"constraint": constraint, "sensitive": lambda batch: batch[2]} if fair else {}
        loader = census.train.loader(256, shuffle=True)
        pruner = BiFPPruner(model, config, evaluator(model, loader, 0.02), 10, 60, **options)
        _, masks = pruner.compress(200, None)
        model.eval()
        masked = model(example)
        pruner.unwrap_model()
        if structured:
            small = speedup(model, masks, example)
            assert sum(p.numel() for p in small.parameters()) < 0.4 * sum(p.numel() for p in dense.parameters())
        else:
            with pytest.warns(FairPruneWarning, match="keeps its size"):
                small = speedup(model, masks, example)
        assert torch.allclose(small.eval()(example), masked, atol=1e-5)
        result = evaluate(small, census.test.loader(1024, shuffle=False), Lagrangian(constraint), split="test")
        assert result.accuracy > 0.78
        gaps[fair] = result.excess
    assert gaps[True] < 0.5 * gaps[False]


@pytest.mark.parametrize("granularity", ["out_channel", "unstructured"])
def test_faces(granularity: str) -> None:
    if not (DATA / "celeba").is_dir():
        pytest.skip("no folder 'celeba' in the data folder; set FAIRPRUNE_DATA to the folder that holds it")
    from faces import ResNet10, load_faces
    from faces import train as train_faces

    splits = load_faces("celeba", DATA, target="Smiling", sensitive="Male", size=32, limit=300)
    torch.manual_seed(0)
    model = ResNet10(width=4)
    train_faces(model, splits["train"], epochs=2, batch_size=32, lr=0.05, seed=0)
    x, y, s = splits["train"].batch()
    batches = [(x[i : i + 50], y[i : i + 50], s[i : i + 50]) for i in range(0, len(x), 50)]
    config: list[dict[str, Any]] = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5, "granularity": granularity}]
    if granularity == "out_channel":
        config = configure_structured(model, x[:4], config)
    pruner = BiFPPruner(
        model,
        config,
        evaluator(model, batches, 0.02),
        2,
        12,
        constraint=EqualOpportunity(tolerance=0.02),
        sensitive=lambda batch: batch[2],
    )
    _, masks = pruner.compress(18, None)
    model.eval()
    masked = model(x[:32])
    pruner.unwrap_model()
    size = sum(parameter.numel() for parameter in model.parameters())
    if granularity == "out_channel":
        small = speedup(model, masks, x[:4])
        assert sum(parameter.numel() for parameter in small.parameters()) < 0.5 * size
    else:
        with pytest.warns(FairPruneWarning, match="keeps its size"):
            small = speedup(model, masks, x[:4])
    assert torch.allclose(small.eval()(x[:32]), masked, atol=1e-4)
