"""From NNI's pruner over its masks to the smaller model, on small architectures."""

from __future__ import annotations

import copy
import logging
from typing import Any

import nni
import pytest
import torch
from torch import Tensor, nn

from fairprune_plugin import EqualOpportunity, FairPruneWarning
from fairprune_plugin.nni import BiFPPruner, TorchEvaluator, configure_structured, speedup
from zoo import CASES, Case, randomise

NAMES = (
    "resnet-basic",
    "resnet-bottleneck",
    "resnext",
    "mobilenetv2",
    "densenet",
    "vgg-bn-flatten",
    "unet",
    "efficientnet-se",
    "mlp-bn-affine",
    "mlp-bn-no-affine",
    "prelu",
)
ZOO = [case for case in CASES if case.name in NAMES]
STEPS = 12


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("nni").setLevel(logging.ERROR)


def logits_of(case: Case, output: Any) -> Tensor:
    """Two classes from whatever a case returns."""
    out = case.logits(output)
    return (out if out.dim() == 2 else out.mean((2, 3)))[:, :2]


def train_and_prune(
    case: Case, settings: dict[str, Any], *, structured: bool
) -> tuple[nn.Module, BiFPPruner, dict[str, Any], Tensor]:
    """A short fair run on fixed inputs; the model comes back unwrapped, with its masked output."""
    torch.manual_seed(0)
    model = case.build()
    randomise(model, seed=0)
    inputs = case.inputs()
    assert isinstance(inputs, Tensor)
    ignored = {id(layer) for layer in case.ignored(model)}
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in ignored
    ]
    config: list[dict[str, Any]] = [{"op_names": names, "sparse_ratio": 0.5, **settings}]
    if structured:
        config = configure_structured(model, inputs, config)
    index = torch.arange(len(inputs))
    batch = (inputs, index % 2, index // 2 % 2)

    def training_func(model: nn.Module, optimizer: Any, step: Any, _: Any, max_steps: int, __: Any) -> None:
        for _step in range(max_steps):
            optimizer.zero_grad()
            step(batch, model).backward()
            optimizer.step()

    def training_step(batch: Any, model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(logits_of(case, model(batch[0])), batch[1])

    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    pruner = BiFPPruner(
        model,
        config,
        TorchEvaluator(training_func, optimizer, training_step),
        2,
        8,
        constraint=EqualOpportunity(tolerance=0.02),
        sensitive=lambda batch: batch[2],
        logits=lambda output: logits_of(case, output),
    )
    _, masks = pruner.compress(STEPS, None)
    model.eval()
    with torch.no_grad():
        masked = case.forward(model)
        pruner.unwrap_model()
        assert torch.allclose(case.forward(model), masked, atol=1e-6)
    return model, pruner, masks, masked


def test_the_zoo_is_there() -> None:
    assert len(ZOO) == len(NAMES)


@pytest.mark.parametrize("case", ZOO, ids=lambda case: case.name)
def test_structured_masks_are_the_smaller_network(case: Case) -> None:
    model, pruner, masks, masked = train_and_prune(case, {}, structured=True)
    assert all(unit_set.inside for unit_set in pruner.units.sets)
    size = sum(parameter.numel() for parameter in model.parameters())
    for method in ("torch_pruning", "nni"):
        small = speedup(copy.deepcopy(model), masks, case.inputs(), method=method)
        assert sum(parameter.numel() for parameter in small.parameters()) < 0.5 * size
        assert torch.allclose(case.forward(small.eval()), masked, atol=1e-5), method


@pytest.mark.parametrize("granularity", ["unstructured", "2:4"])
@pytest.mark.parametrize(
    "case", [case for case in ZOO if case.name in NAMES[:1] + NAMES[8:9]], ids=lambda case: case.name
)
def test_single_weights_on_convolutions_and_linear_layers(case: Case, granularity: str) -> None:
    if granularity == "2:4":  # the first layer has 3 (or 10) inputs
        first = {"resnet-basic": "stem.0", "mlp-bn-affine": "stem.0"}[case.name]
        settings: dict[str, Any] = {"granularity": granularity, "exclude_op_names": [first]}
    else:
        settings = {"granularity": granularity}
    model, _, masks, masked = train_and_prune(case, settings, structured=False)
    weights = {name: targets["weight"] for name, targets in masks.items()}
    assert all(mask.expand(model.get_parameter(f"{name}.weight").shape).mean() == 0.5 for name, mask in weights.items())
    if granularity == "2:4":
        for mask in weights.values():
            assert (mask.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
    with pytest.warns(FairPruneWarning, match="keeps its size"):
        same = speedup(model, masks, case.inputs())
    assert torch.allclose(case.forward(same), masked, atol=1e-6)
    for name, mask in weights.items():
        assert torch.equal(same.get_parameter(f"{name}.weight") != 0, mask.bool())
