"""Batches that a loss, ``fit`` or an evaluation cannot work with: refused before anything is learned from them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from constrained_mlp import batch, constrained
from torch import Tensor
from torch.utils.data import TensorDataset

from driving import SGD, SmallMLP, batches_for
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import DataError, FairPruneWarning, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner

CONSTRAINED_OR_NOT = [
    pytest.param(EqualOpportunity(0.1), id="constrained"),
    pytest.param(None, id="plain"),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:-1], r"expected the sensitive attribute of shape \(16,\).* got \(15,\)"),
        (lambda s: torch.stack([s, s], 1), r"shape \(16,\).* got \(16, 2\)"),
        (lambda s: torch.where(s == 1, torch.nan, 0.0), "has NaN or infinite ids: give the unknown group an id"),
        (lambda s: s * 0.5, "fractions: map each group to"),
        (
            lambda s: s - 1,
            "group id -1 .* never declared.* give the unknown group an id of its own or drop those samples",
        ),
        (lambda s: s + 1, "group id 2 of the sensitive attribute was never declared: .*women, men.*groups=3"),
        (lambda s: s.to(torch.complex64), "complex"),
        (lambda s: ["other"] * 16, "group 'other' .* never declared: .*women, men.*pass its name too"),
        (lambda s: None, r"needs the sensitive attribute: call loss\(logits, y, s\)"),
        (lambda s: s.to("meta"), "on meta: move the batch"),
    ],
    ids=[
        "length",
        "shape",
        "nan",
        "fractions",
        "negative",
        "undeclared",
        "complex",
        "name",
        "missing",
        "device",
    ],
)
def test_sensitive_attribute(change: Callable[[Tensor], Any], message: str) -> None:
    model, pruner = constrained()
    x, y, s = batch(model)
    with pytest.raises(DataError, match=message):
        pruner.loss(model(x), y, change(s))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.float64], ids=str)
def test_sensitive_attribute_of_other_types_is_read(dtype: torch.dtype) -> None:
    model, pruner = constrained()
    x, y, s = batch(model)
    assert torch.isfinite(pruner.loss(model(x), y, s.to(dtype)))


@pytest.mark.parametrize("constraint", CONSTRAINED_OR_NOT)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y + 1, r"targets in \[0, 2\).* values in \[1, 2\]"),
        (lambda y: y - 1, r"targets in \[0, 2\).* values in \[-1, 0\]"),
        (lambda y: y[:-1], r"targets of shape \(16,\).* got \(15,\)"),
        (lambda y: y + 0.5, "not whole numbers"),
        (lambda y: y.to("meta"), "targets on meta: move the batch"),
        (lambda y: y.tolist(), "tensors, got Tensor and list"),
    ],
    ids=["too-high", "negative", "length", "soft", "device", "list"],
)
def test_targets(constraint: Any, change: Callable[[Tensor], Any], message: str) -> None:
    model, pruner = constrained(constraint=constraint)
    x, y, s = batch(model)
    with pytest.raises(DataError, match=message):
        pruner.loss(model(x), change(y), s)


@pytest.mark.parametrize("constraint", CONSTRAINED_OR_NOT)
@pytest.mark.parametrize(
    "shape", [(16, 2, 1), (2, 16, 2, 2), (0, 2), (16, 0), ()], ids=["3d", "4d", "no-samples", "no-classes", "scalar"]
)
def test_logits_of_a_shape_that_fits_nothing(constraint: Any, shape: tuple[int, ...]) -> None:
    model, pruner = constrained(constraint=constraint)
    _, y, s = batch(model)
    with pytest.raises(DataError, match=r"expected logits of shape \(N,\), \(N, 1\), \(N, 2\) or \(N, C\)"):
        pruner.loss(torch.randn(shape, requires_grad=True), y, s)


def test_a_task_loss_of_ones_own_may_read_what_it_likes() -> None:
    """Without a constraint nobody else looks at the logits: dense prediction, regression, soft targets."""
    model, pruner = constrained(constraint=None, task_loss=lambda out, y: (out - y).square().mean())
    x, _, _ = batch(model)
    assert torch.isfinite(pruner.loss(model(x)[:, :, None], torch.rand(16, 2, 1)))


def test_the_number_of_classes_must_not_change() -> None:
    model, pruner = constrained()
    _, y, s = batch(model)
    pruner.loss(torch.randn(16, 3, requires_grad=True), y, s)
    with pytest.raises(TrainingStateError, match="2 classes now and had 3 classes before"):
        pruner.loss(torch.randn(16, 2, requires_grad=True), y, s)


def fit(model: SmallMLP, pruner: BiFPPruner, loader: Any, **options: Any) -> Any:
    return pruner.fit(loader, SGD(model.parameters(), lr=0.05), progress=False, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, s: (x, y), r"train loader yields \(x, y\) but the constraint needs \(x, y, s\)"),
        (lambda x, y, s: (x,), r"expected batches \(x, y, s\).* yields 1 items"),
        (lambda x, y, s: (x, y, s, s), r"expected batches \(x, y, s\).* yields 4 items"),
        (lambda x, y, s: x, r"expected batches \(x, y, s\).* yields Tensor"),
        (lambda x, y, s: {"x": x}, "expected a target in the batch, under one of y, labels, .* dict has 'x'"),
        (lambda x, y, s: (x, y, s * 0), r"one group only \(women\) of women, men"),
        (
            lambda x, y, s: (x, y * (s == 0), s),
            r"true_positive_rate.*undefined for group men .*Merge or drop the group",
        ),
        (lambda x, y, s: (x, y, s + 1), "group id 2 of the sensitive attribute was never declared"),
    ],
    ids=["no-s", "one-item", "four-items", "tensor", "dict", "one-group", "no-positives", "undeclared"],
)
def test_training_data(change: Callable[..., Any], message: str) -> None:
    model, pruner = constrained()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match=message):
        fit(model, pruner, [change(*b) for b in batches_for(model, 8)])
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert pruner.engine.step_index == 0


@pytest.mark.parametrize("which", ["train", "validation"])
def test_empty_loaders(which: str) -> None:
    model, pruner = constrained()
    batches = batches_for(model, 8)
    options = {"validation": []} if which == "validation" else {}
    with pytest.raises(DataError, match=rf"the {which} loader is empty"):
        fit(model, pruner, batches if options else [], **options)


def test_an_empty_training_loader_without_constraint() -> None:
    model, pruner = constrained(constraint=None)
    with pytest.raises(DataError, match="the train loader is empty"):
        fit(model, pruner, [])


def test_a_group_without_positives_on_validation_only_warns() -> None:
    model, pruner = constrained()
    batches = batches_for(model, 8)
    with pytest.warns(
        FairPruneWarning,
        match=r"on the validation data: equal_opportunity: true_positive_rate.*undefined for group men",
    ):
        result = fit(model, pruner, batches, validation=[(x, y * (s == 0), s) for x, y, s in batches[:2]])
    assert not result.feasible


def test_one_group_only_on_validation() -> None:
    model, pruner = constrained()
    batches = batches_for(model, 8)
    with pytest.raises(DataError, match=r"the validation data contain one group only \(men\)"):
        fit(model, pruner, batches, validation=[(x, y, s * 0 + 1) for x, y, s in batches[:2]])


@pytest.mark.parametrize("how", ["fit", "evaluate", "measure_dense", "discover_groups"])
@pytest.mark.parametrize("loader", ["dataset", None])
def test_data_that_are_no_batches(how: str, loader: Any) -> None:
    model, pruner = constrained()
    if loader == "dataset":
        loader = TensorDataset(*batch(model))
    message = "expected batches .* DataLoader" if loader else "expected the .* loader as something that yields batches"
    with pytest.raises(DataError, match=message):
        if how == "fit":
            pruner.fit(loader, SGD(model.parameters(), lr=0.1), progress=False)
        else:
            getattr(pruner, how)(loader)
