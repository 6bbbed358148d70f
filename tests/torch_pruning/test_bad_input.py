"""Issue 2, "Bad input": a clear error before any training, or a clear warning; each message names the fix."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from driving import SGD, SmallMLP, batches_for, drive, example_of
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import (
    ConfigError,
    DataError,
    FairPruneError,
    FairPruneWarning,
    NonFiniteError,
    StaleOptimizerError,
    TrainingStateError,
    UnsupportedModelError,
)
from fairprune_plugin.torch_pruning import BiFPPruner


def build(model: nn.Module | None = None, **options: Any) -> tuple[SmallMLP, BiFPPruner]:
    model = model or SmallMLP()
    defaults: dict[str, Any] = {
        "pruning_ratio": 0.5,
        "ignored_layers": [model.head],
        "constraint": EqualOpportunity(tolerance=0.02, groups=["women", "men"]),
        "total_steps": 8,
    }
    return model, BiFPPruner(model, example_of(model), **{**defaults, **options})


def batch(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    return batches_for(model, 1)[0]


# ---- construction ------------------------------------------------------------------------------------------

NOT_A_RATIO = [-0.1, 1, 1.0, 1.5, float("nan"), float("inf"), "0.5", True, None]


@pytest.mark.parametrize("ratio", [r for r in NOT_A_RATIO if r is not None], ids=repr)
def test_pruning_ratio_outside_its_range(ratio: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected pruning_ratio in \[0, 1\), the share that is removed, got "):
        build(pruning_ratio=ratio)


def test_pruning_ratio_of_none() -> None:
    with pytest.raises(ConfigError, match="pruning_ratio"):
        build(pruning_ratio=None)


@pytest.mark.parametrize("name", ["pruning_ratio_dict", "ch_sparsity_dict", "head_pruning_ratio_dict"])
def test_ratios_of_layers_outside_their_range(name: str) -> None:
    model = SmallMLP()
    with pytest.raises(ConfigError, match=rf"every ratio in {name} in \[0, 1\)"):
        build(model, **{name: {model.fc1: 1.0}})


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
        build(**options)


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
        build(model, ignored_layers=[model])


def test_only_an_output_layer() -> None:
    with (
        pytest.warns(FairPruneWarning, match="outputs"),
        pytest.raises(ConfigError, match="feeds the model's output"),
    ):
        BiFPPruner(nn.Sequential(nn.Linear(6, 2)), torch.randn(2, 6), pruning_ratio=0.5, total_steps=4)


def test_an_output_layer_that_is_not_ignored_is_protected() -> None:
    model = SmallMLP()
    with pytest.warns(FairPruneWarning, match=r"channels of head are the model's outputs .*ignored_layers=\[…\]"):
        _, pruner = build(model, ignored_layers=None)
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
        build(model)


def test_a_refused_model_is_untouched() -> None:
    model = SmallMLP()
    model.eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(FairPruneError):
        build(model, target="params", pruning_ratio=0.99)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


CONSTRAINED_OR_NOT = [
    pytest.param(EqualOpportunity(0.1), id="constrained"),
    pytest.param(None, id="plain"),
]

# ---- batches -----------------------------------------------------------------------------------------------


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
    model, pruner = build()
    x, y, s = batch(model)
    with pytest.raises(DataError, match=message):
        pruner.loss(model(x), y, change(s))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.float64], ids=str)
def test_sensitive_attribute_of_other_types_is_read(dtype: torch.dtype) -> None:
    model, pruner = build()
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
    model, pruner = build(constraint=constraint)
    x, y, s = batch(model)
    with pytest.raises(DataError, match=message):
        pruner.loss(model(x), change(y), s)


@pytest.mark.parametrize("constraint", CONSTRAINED_OR_NOT)
@pytest.mark.parametrize(
    "shape", [(16, 2, 1), (2, 16, 2, 2), (0, 2), (16, 0), ()], ids=["3d", "4d", "no-samples", "no-classes", "scalar"]
)
def test_logits_of_a_shape_that_fits_nothing(constraint: Any, shape: tuple[int, ...]) -> None:
    model, pruner = build(constraint=constraint)
    _, y, s = batch(model)
    with pytest.raises(DataError, match=r"expected logits of shape \(N,\), \(N, 1\), \(N, 2\) or \(N, C\)"):
        pruner.loss(torch.randn(shape, requires_grad=True), y, s)


def test_a_task_loss_of_ones_own_may_read_what_it_likes() -> None:
    """Without a constraint nobody else looks at the logits: dense prediction, regression, soft targets."""
    model, pruner = build(constraint=None, task_loss=lambda out, y: (out - y).square().mean())
    x, _, _ = batch(model)
    assert torch.isfinite(pruner.loss(model(x)[:, :, None], torch.rand(16, 2, 1)))


def test_the_number_of_classes_must_not_change() -> None:
    model, pruner = build()
    _, y, s = batch(model)
    pruner.loss(torch.randn(16, 3, requires_grad=True), y, s)
    with pytest.raises(TrainingStateError, match="2 classes now and had 3 classes before"):
        pruner.loss(torch.randn(16, 2, requires_grad=True), y, s)


# ---- the order of the loop ---------------------------------------------------------------------------------


def test_regularize_before_any_loss() -> None:
    model, pruner = build()
    with pytest.raises(TrainingStateError, match=r"call loss = pruner.loss\(model\(x\), y, s\)"):
        pruner.regularize(model)


def test_regularize_before_backward() -> None:
    model, pruner = build()
    x, y, s = batch(model)
    pruner.loss(model(x), y, s)
    with pytest.raises(TrainingStateError, match=r"before loss.backward\(\)"):
        pruner.regularize(model)


def test_regularize_twice() -> None:
    model, pruner = build()
    x, y, s = batch(model)
    pruner.loss(model(x), y, s).backward()
    pruner.regularize(model)
    with pytest.raises(TrainingStateError, match="needs fresh gradients"):
        pruner.regularize(model)


def test_regularize_with_another_model() -> None:
    model, pruner = build()
    x, y, s = batch(model)
    pruner.loss(model(x), y, s).backward()
    with pytest.raises(ConfigError, match="another model than the pruner was built for"):
        pruner.regularize(copy.deepcopy(model))
    pruner.regularize(model)  # nothing was used up by the mistake


def test_regularize_after_all_steps() -> None:
    model, pruner = build()
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 8))
    x, y, s = batch(model)
    pruner.loss(model(x), y, s).backward()
    with pytest.raises(TrainingStateError, match=r"all 8 planned training steps are done.*call pruner.step\(\)"):
        pruner.regularize(model)


def test_a_plan_after_the_last_round() -> None:
    model, pruner = build()
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 8))
    pruner.step()
    with pytest.raises(TrainingStateError, match="build a new BiFPPruner"):
        pruner.plan(8)
    assert model.fc1.out_features == 8


def test_total_steps_missing() -> None:
    model, pruner = build(total_steps=None)
    x, y, s = batch(model)
    with pytest.raises(TrainingStateError, match=r"pass total_steps=… to the pruner .* or use fit\(epochs=…\)"):
        pruner.loss(model(x), y, s)


def test_the_plan_cannot_change_in_the_middle() -> None:
    model, pruner = build()
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 1))
    pruner.plan(8)  # the same again is fine
    with pytest.raises(TrainingStateError, match="training has begun with total_steps=8: it cannot become 9"):
        pruner.plan(9)


def test_the_old_optimizer_refuses_after_step() -> None:
    model, pruner = build()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    drive(pruner, model, optimizer, batches_for(model, 8))
    pruner.step()
    model(example_of(model)).sum().backward()
    with pytest.raises(StaleOptimizerError, match=r"optimizer = pruner.rebuild_optimizer\(optimizer\)"):
        optimizer.step()
    pruner.rebuild_optimizer(optimizer).step()


def test_nan_loss_in_a_loop_of_ones_own() -> None:
    model, pruner = build()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    drive(pruner, model, optimizer, batches_for(model, 3))
    state, keep = copy.deepcopy(model.state_dict()), pruner.engine.weights.keep.clone()
    x, y, s = batch(model)
    with pytest.raises(NonFiniteError, match="the loss became nan at training step 3") as raised:
        pruner.loss(model(x * torch.nan), y, s)
    assert "lower the learning rate" in str(raised.value)
    assert torch.equal(pruner.engine.weights.keep, keep)
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key
    # The loop may go on with the next batch.
    drive(pruner, model, optimizer, batches_for(model, 5))
    pruner.step()
    assert torch.isfinite(model(x)).all()


# ---- what fit() looks at before it trains ------------------------------------------------------------------


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
    model, pruner = build()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match=message):
        fit(model, pruner, [change(*b) for b in batches_for(model, 8)])
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert pruner.engine.step_index == 0


@pytest.mark.parametrize("which", ["train", "validation"])
def test_empty_loaders(which: str) -> None:
    model, pruner = build()
    batches = batches_for(model, 8)
    options = {"validation": []} if which == "validation" else {}
    with pytest.raises(DataError, match=rf"the {which} loader is empty"):
        fit(model, pruner, batches if options else [], **options)


def test_an_empty_training_loader_without_constraint() -> None:
    model, pruner = build(constraint=None)
    with pytest.raises(DataError, match="the train loader is empty"):
        fit(model, pruner, [])


def test_a_group_without_positives_on_validation_only_warns() -> None:
    model, pruner = build()
    batches = batches_for(model, 8)
    with pytest.warns(
        FairPruneWarning,
        match=r"on the validation data: equal_opportunity: true_positive_rate.*undefined for group men",
    ):
        result = fit(model, pruner, batches, validation=[(x, y * (s == 0), s) for x, y, s in batches[:2]])
    assert not result.feasible


def test_one_group_only_on_validation() -> None:
    model, pruner = build()
    batches = batches_for(model, 8)
    with pytest.raises(DataError, match=r"the validation data contain one group only \(men\)"):
        fit(model, pruner, batches, validation=[(x, y, s * 0 + 1) for x, y, s in batches[:2]])


# ---- what is not said by an error --------------------------------------------------------------------------


def test_round_to_above_every_width_is_said() -> None:
    with pytest.warns(FairPruneWarning, match="nothing will be pruned: round_to=64 keeps every layer"):
        build(round_to=64)
    build(round_to=64, pruning_ratio=0.0)  # warnings are errors here


@pytest.mark.parametrize("how", ["fit", "evaluate", "measure_dense", "discover_groups"])
@pytest.mark.parametrize("loader", ["dataset", None])
def test_data_that_are_no_batches(how: str, loader: Any) -> None:
    model, pruner = build()
    if loader == "dataset":
        loader = TensorDataset(*batch(model))
    message = "expected batches .* DataLoader" if loader else "expected the .* loader as something that yields batches"
    with pytest.raises(DataError, match=message):
        if how == "fit":
            pruner.fit(loader, SGD(model.parameters(), lr=0.1), progress=False)
        else:
            getattr(pruner, how)(loader)


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
    model, pruner = build()
    with pytest.raises(ConfigError, match="expected wrap as a function model → its data-parallel wrapper, got 3"):
        pruner.fit([batch(model)], SGD(model.parameters(), lr=0.1), wrap=3, progress=False)
