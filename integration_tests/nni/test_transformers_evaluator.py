"""NNI's pruners train through ``TransformersEvaluator`` on transformers 5, exactly as through a plain loop."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

if any(importlib.util.find_spec(name) is None for name in ("nni", "transformers", "accelerate")):
    pytest.skip("needs nni, transformers and accelerate", allow_module_level=True)

import nni
from nni.compression import TransformersEvaluator
from nni.compression.pruning import TaylorPruner
from nni.compression.utils import evaluator as nni_evaluators
from torch.optim.lr_scheduler import LambdaLR
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.nni import BiFPPruner
from fairprune_plugin.nni.evaluators import patched_evaluators
from nni_compressions import (
    BATCH,
    LEARNING_RATE,
    PRUNERS,
    STEPS,
    assert_same,
    batches,
    compress,
    example,
    network,
    own_attributes,
)

SAMPLES = [{"x": x, "labels": y, "s": s} for batch in batches() for x, y, s in zip(*batch, strict=True)]


class InOrder(Trainer):
    """The data in a fixed order, as the reference sees them; group ids never reach the model."""

    steps = 0

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        inputs.pop("s", None)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        type(self).steps += 1
        return super().training_step(*args, **kwargs)


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    InOrder.steps = 0


def constant(_: int) -> float:
    """No learning-rate schedule, as in the reference."""
    return 1.0


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Plain SGD-like settings that write nothing."""
    quiet = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    defaults = {
        "remove_unused_columns": False,
        "per_device_train_batch_size": BATCH,
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(output_dir=str(folder), **{**quiet, **defaults, **options})


def evaluator_for(model: Any, folder: Path, **options: Any) -> TransformersEvaluator:
    """With a traced SGD, as in the reference."""
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=LEARNING_RATE)
    schedule = nni.trace(LambdaLR)(optimizer, constant)
    trainer = nni.trace(InOrder)(
        model=model, args=arguments(folder, **options), train_dataset=SAMPLES, optimizers=(optimizer, schedule)
    )
    return TransformersEvaluator(trainer, dummy_input=example())


@pytest.mark.parametrize("name", PRUNERS)
def test_same_masks_and_weights_as_in_a_plain_loop(name: str, tmp_path: Path) -> None:
    model = network()
    with patched_evaluators():
        masks = compress(PRUNERS[name](model, evaluator_for(model, tmp_path)))
    assert_same(masks, model.state_dict(), name)


@pytest.mark.parametrize("name", ["agp-l1", "taylor", "movement"])  # BiFP's running counts see micro-batches
def test_micro_batches_make_one_step(name: str, tmp_path: Path) -> None:
    """Tasks run once per update, whatever the accumulation."""
    model = network()
    options = {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 4}
    with patched_evaluators():
        masks = compress(PRUNERS[name](model, evaluator_for(model, tmp_path, **options)))
    assert_same(masks, model.state_dict(), name)


def test_two_evaluators_at_once_run_their_own_tasks(tmp_path: Path) -> None:
    """In turns and one inside the other: both bound, each with tasks of its own, before either trains."""
    models, done = [network(), network()], {0: [], 1: []}
    with patched_evaluators():
        evaluators = [evaluator_for(model, tmp_path) for model in models]
        for index, (evaluator, model) in enumerate(zip(evaluators, models, strict=True)):
            evaluator._init_optimizer_helpers(model)
            evaluator.bind_model(model)
            for time in ("first", "second"):
                tasks = [
                    [lambda say=f"{time} {side}", log=done[index]: log.append(say)] for side in ("before", "after")
                ]
                evaluator.patch_optimizer_step(*tasks)
        evaluators[0].train(max_steps=2)
        assert done == {0: ["second before", "first before", "first after", "second after"] * 2, 1: []}
        evaluators[1].train(max_steps=1)
        assert len(done[0]) == 8
        assert len(done[1]) == 4
        for evaluator in evaluators:
            evaluator.revert_optimizer_step()
            evaluator.train(max_steps=1)
            evaluator.unbind_model()
    assert len(done[0]) == 8
    assert len(done[1]) == 4


def test_tasks_do_not_outlive_their_binding(tmp_path: Path) -> None:
    model, done = network(), []
    with patched_evaluators():
        evaluator = evaluator_for(model, tmp_path)
        evaluator._init_optimizer_helpers(model)
        for expected in (1, 2):
            evaluator.bind_model(model)
            evaluator.patch_optimizer_step([], [lambda: done.append(1)])
            evaluator.train(max_steps=1)
            evaluator.unbind_model()
            assert len(done) == expected


@pytest.mark.parametrize("limits", [{}, {"max_steps": 3}])
@pytest.mark.parametrize(("asked", "steps"), [((30, None), 30), ((None, 3), 3 * STEPS), ((20, 1), 20)])
def test_trains_as_long_as_the_compressor_asks(limits: dict[str, int], asked: Any, steps: int, tmp_path: Path) -> None:
    """The trainer's own limits do not matter; of two, the number of steps counts (the trainer's rule)."""
    model = network()
    with patched_evaluators():
        evaluator = evaluator_for(model, tmp_path, **limits)
        PRUNERS["agp-l1"](model, evaluator).compress(*asked)
    assert InOrder.steps == steps
    given = evaluator.traced_trainer.args
    assert (given.max_steps, given.num_train_epochs) == (limits.get("max_steps", -1), 1)


def test_loss_patches_see_the_fields_that_never_reach_the_model(tmp_path: Path) -> None:
    """How group ids travel: a column of the data that the trainer's ``compute_loss`` takes out for the model."""
    model, groups = network(), []
    with patched_evaluators():
        evaluator = evaluator_for(model, tmp_path)
        evaluator._init_optimizer_helpers(model)
        evaluator.bind_model(model)
        evaluator.patch_loss(lambda loss, batch: groups.append(batch["s"]) or loss)
        evaluator.train(max_steps=2)
        evaluator.unbind_model()
    torch.testing.assert_close(torch.cat(groups), torch.cat([batch[2] for batch in batches()[:2]]))


@pytest.mark.parametrize("optimizers", [(None, None), "untraced"])
def test_the_trainers_default_optimizer(optimizers: Any, tmp_path: Path) -> None:
    """A real BERT; an optimizer that is not traced cannot be rebuilt and gives way to the default, with a warning."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=8, **sizes))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (32, 8), generator=generator)
    data = [{"input_ids": row, "labels": row.sum() % 2} for row in tokens]
    if optimizers == "untraced":
        optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    config = [{"op_types": ["Linear"], "op_names_re": [".*intermediate.*"], "sparse_ratio": 0.5}]
    before = set(own_attributes(Trainer))
    with patched_evaluators():
        trainer = nni.trace(Trainer)(
            model=model, args=arguments(tmp_path, max_steps=4), train_dataset=data, optimizers=optimizers
        )
        pruner = TaylorPruner(model, config, TransformersEvaluator(trainer), training_steps=3)
        _, masks = pruner.compress()
        pruner.unwrap_model()
    assert {name: float(mask["weight"].mean()) for name, mask in masks.items()} == {
        "bert.encoder.layer.0.intermediate.dense": 0.5
    }
    assert set(own_attributes(Trainer)) == before
    assert isinstance(vars(Trainer)["get_optimizer_cls_and_kwargs"], staticmethod)
    assert trainer.optimizer_cls_and_kwargs is None
    assert type(trainer.create_optimizer()) is torch.optim.AdamW  # not a traced class


def test_everything_is_restored() -> None:
    owners = (nni_evaluators, nni_evaluators.TransformersEvaluator, nni_evaluators.PatchCallback, Trainer)
    before = set(own_attributes(*owners))
    with patched_evaluators():
        assert set(own_attributes(*owners)) != before
    assert set(own_attributes(*owners)) == before


def test_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As shipped NNI does not train here; once it does, this module can go."""
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", vars(Trainer)["get_optimizer_cls_and_kwargs"])
    model = network()
    trainer = nni.trace(Trainer)(model=model, args=arguments(tmp_path), train_dataset=SAMPLES)
    with pytest.raises(TypeError, match="patched_get_optimizer_cls_and_kwargs"):
        PRUNERS["taylor"](model, TransformersEvaluator(trainer))


def test_our_pruner_says_that_the_patch_is_needed(tmp_path: Path) -> None:
    model = network()
    trainer = nni.trace(Trainer)(model=model, args=arguments(tmp_path), train_dataset=SAMPLES)
    config = [{"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": "unstructured"}]
    with pytest.raises(
        ConfigError, match=r"TransformersEvaluator does not train with transformers 5.*patched_evaluators\("
    ):
        BiFPPruner(model, config, TransformersEvaluator(trainer), 2, 6)
