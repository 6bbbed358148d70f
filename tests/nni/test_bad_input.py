"""Mistakes that NNI answers with silence or a bare assertion: each a clear error of ours."""

from __future__ import annotations

import copy
from typing import Any

import nni
import pytest
import torch
from nni.compression import TorchEvaluator as PlainTorchEvaluator
from torch import Tensor, nn

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import ConfigError, DataError, NonFiniteError, TrainingStateError
from fairprune_plugin.nni import BiFPPruner, TorchEvaluator, configure_structured, speedup
from nni_toys import batches, config, evaluator, group_of, loop, mlp, training_step

X = batches(1)[0][0]
FAIR: dict[str, Any] = {"constraint": EqualOpportunity(tolerance=0.02), "sensitive": group_of}


def test_an_optimizer_that_is_not_traced() -> None:
    model = mlp()
    with pytest.raises(ConfigError, match=r"SGD was not made by nni\.trace.*write nni\.trace\("):
        TorchEvaluator(loop(batches()), torch.optim.SGD(model.parameters(), lr=0.1), training_step)


def test_a_scheduler_that_is_not_traced() -> None:
    optimizer = nni.trace(torch.optim.SGD)(mlp().parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"StepLR was not made by nni\.trace"):
        TorchEvaluator(
            loop(batches()), optimizer, training_step, lr_schedulers=torch.optim.lr_scheduler.StepLR(optimizer, 1)
        )


def test_an_optimizer_that_is_none() -> None:
    with pytest.raises(ConfigError, match="expected a torch optimizer, got list_iterator"):
        TorchEvaluator(loop(batches()), iter([]), training_step)


def test_named_parameters() -> None:
    model = mlp()
    found = TorchEvaluator(loop(batches()), nni.trace(torch.optim.SGD)(model.named_parameters(), lr=0.1), training_step)
    with pytest.raises(ConfigError, match=r"named_parameters\(\).*model.parameters\(\)"):
        BiFPPruner(model, config(), found, 2, 6)


@pytest.mark.parametrize("cls", [TorchEvaluator, PlainTorchEvaluator])
def test_the_optimizer_of_another_model(cls: Any) -> None:
    found = cls(loop(batches()), nni.trace(torch.optim.SGD)(mlp().parameters(), lr=0.1), training_step)
    with pytest.raises(ConfigError, match="holds no parameter of this model"):
        BiFPPruner(mlp(), config(), found, 2, 6)


@pytest.mark.parametrize("found", [None, "evaluator", training_step])
def test_no_evaluator(found: Any) -> None:
    with pytest.raises(ConfigError, match="expected an NNI evaluator"):
        BiFPPruner(mlp(), config(), found, 2, 6)


@pytest.mark.parametrize(("taken", "words"), [(0, "masks are all ones"), (3, "after 3 optimizer steps")])
def test_a_training_function_that_returns_early(taken: int, words: str) -> None:
    def short(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        loop(batches())(model, optimizer, step, max_steps=taken)

    model = mlp()
    found = evaluator(model)
    found.training_func = short
    pruner = BiFPPruner(model, config(), found, 2, 6)
    with pytest.raises(TrainingStateError, match=rf"(?s){words}.*(max_steps|cooldown_begin_step)"):
        pruner.compress(10, None)
    assert found.model is None  # nothing stays bound after an error


def test_a_training_function_that_ignores_its_training_step() -> None:
    def own(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        optimizer.zero_grad()
        training_step(batches(1)[0], model).backward()
        optimizer.step()

    model = mlp()
    found = evaluator(model)
    found.training_func = own
    pruner = BiFPPruner(model, config(), found, 2, 6)
    with pytest.raises(TrainingStateError, match="training_step that it is given as an argument"):
        pruner.compress(10, None)


def test_a_training_step_that_calls_another_model() -> None:
    model, other = mlp(), mlp()
    found = evaluator(model, step=lambda batch, _: training_step(batch, other))
    pruner = BiFPPruner(model, config(), found, 2, 6, **FAIR)
    with pytest.raises(TrainingStateError, match="without calling the model"):
        pruner.compress(10, None)


def test_max_steps_shorter_than_the_schedule() -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 6)
    with pytest.raises(ConfigError, match="max_steps=5 is shorter than the schedule: the goals are reached at step 6"):
        pruner.compress(5, None)


def test_epochs_without_a_schedule_in_steps() -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model))
    with pytest.raises(ConfigError, match="length of the run is unknown: pass cooldown_begin_step"):
        pruner.compress(None, 3)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((6, 6), "warmup_step < cooldown_begin_step"),
        ((0.1, 6), "whole number"),
        ((0, 1), "at least 2"),
        ((-1, 6), "whole"),
    ],
)
def test_schedules_that_cannot_be(steps: Any, words: str) -> None:
    model = mlp()
    with pytest.raises(ConfigError, match=words):
        BiFPPruner(model, config(), evaluator(model), *steps)


def test_compress_twice() -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 6)
    pruner.compress(8, None)
    with pytest.raises(TrainingStateError, match="trained already"):
        pruner.compress(8, None)


def test_a_constraint_without_the_sensitive_field() -> None:
    model = mlp()
    with pytest.raises(ConfigError, match="sensitive="):
        BiFPPruner(model, config(), evaluator(model), 2, 6, constraint=EqualOpportunity(0.02))


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ([(x, y) for x, y, _ in batches()], {}, r"no sensitive attribute.*IndexError.*2 items"),
        (
            [{"x": x, "labels": y} for x, y, _ in batches()],
            {"sensitive": lambda batch: batch["s"]},
            r"no sensitive attribute.*KeyError: 's'.*keys x, labels",
        ),
        (batches(), {"sensitive": lambda batch: None}, "returned None"),
        (batches(), {"targets": lambda batch: batch[7]}, r"no targets attribute"),
        ([(x, y, s + 5) for x, y, s in batches()], {}, "group id 6 of the sensitive attribute was never declared"),
        (batches(), {"logits": lambda output: "none"}, r"expected the logits as a tensor, got str.*logits=lambda"),
    ],
    ids=["tuple", "dict", "none", "targets", "undeclared group", "logits"],
)
def test_batches_without_their_fields(data: list[Any], options: Any, words: str) -> None:
    def step(batch: Any, model: nn.Module) -> Tensor:
        x, y = (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch[:2]
        return nn.functional.cross_entropy(model(x), y)

    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model, data, step=step), 2, 6, **{**FAIR, **options})
    with pytest.raises(DataError, match=words):
        pruner.compress(8, None)


def test_a_loss_that_is_not_a_number_changes_nothing() -> None:
    data = batches()
    data[2] = (data[2][0] * torch.nan, *data[2][1:])
    model = mlp()
    pruner = BiFPPruner(model, config(granularity="unstructured"), evaluator(model, data), 1, 6, **FAIR)
    with pytest.raises((NonFiniteError, DataError)):
        pruner.compress(8, None)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def test_a_wrapped_model_and_its_deep_copy() -> None:
    model = mlp()
    BiFPPruner(model, config(), evaluator(model), 2, 6)
    twin = copy.deepcopy(model)
    for wrapped in (model, twin):
        with pytest.raises(ConfigError, match=r"wrapped.*unwrap_model\(\) first.*deep copy"):
            BiFPPruner(wrapped, config(), evaluator(wrapped), 2, 6)
        with pytest.raises(ConfigError, match="speedup got a model that NNI has wrapped"):
            speedup(wrapped, {}, X)
        with pytest.raises(ConfigError, match="configure_structured got a model that NNI has wrapped"):
            configure_structured(wrapped, X, config())


def test_something_that_is_no_model() -> None:
    with pytest.raises(ConfigError, match=r"expected an nn\.Module"):
        BiFPPruner("model", config(), evaluator(mlp()), 2, 6)  # type: ignore[arg-type]


def test_an_error_in_the_config_leaves_the_model_unwrapped() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"multiple of 4 inputs, and 0.weight has shape \(4, 6\)"):
        BiFPPruner(model, [{"op_names": ["0"], "sparse_ratio": 0.5, "granularity": "2:4"}], evaluator(model), 2, 6)
    assert isinstance(model[0].weight, nn.Parameter)
    assert not hasattr(model[0], "_nni_wrapper")


@pytest.mark.parametrize("dummy", [None, X], ids=["rows", "consumers"])
def test_frozen_layers_that_nothing_would_score(dummy: Tensor | None) -> None:
    model = mlp()
    for layer in (0, 1, 3):
        model[layer].requires_grad_(False)
    with pytest.raises(ConfigError, match=r"(0|3)\.weight: the weights that the mask multiplies are frozen"):
        BiFPPruner(model, config(), evaluator(model, dummy_input=dummy), 2, 6)
    assert not hasattr(model[0], "_nni_wrapper")


def test_shared_weights() -> None:
    model = mlp()
    model[3] = nn.Linear(16, 16)
    model[6] = nn.Linear(16, 16)
    model[6].weight = model[3].weight
    with pytest.raises(ConfigError, match=r"3\.weight and 6\.weight are one shared parameter"):
        BiFPPruner(model, config(), evaluator(model), 2, 6)


def test_half_precision() -> None:
    model = mlp().half()
    with pytest.raises(ConfigError, match=r"\.weight is in half precision.*autocast"):
        BiFPPruner(model, config(), evaluator(model), 2, 6)


@pytest.mark.parametrize("granularity", ["default", "unstructured", "2:4", [4, 4, -1, -1]], ids=str)
def test_a_transposed_convolution_whose_bias_does_not_fit_its_rows(granularity: Any) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(16, 8, 2), nn.Flatten(), nn.Linear(32, 2))
    asked: dict[str, Any] = {"op_names": ["0"], "sparse_ratio": 0.5, "granularity": granularity}
    words = r"0\.bias of shape \(8,\).*0\.weight of shape \(16, 8, 2, 2\), a transposed.*'target_names': \['weight'\]"
    with pytest.raises(ConfigError, match=words):
        BiFPPruner(model, [asked], evaluator(model), 2, 6)
    assert not hasattr(model[0], "_nni_wrapper")
    data = [(torch.randn(8, 16, 1, 1), torch.arange(8) % 2)]
    _, masks = BiFPPruner(model, [{**asked, "target_names": ["weight"]}], evaluator(model, data), 2, 6).compress(
        8, None
    )
    assert float(masks["0"]["weight"].mean()) == 0.5  # as the message says
