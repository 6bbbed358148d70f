"""Training with Hugging Face's ``Trainer`` and the callback is training with a loop of one's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("accelerate") is None:
    pytest.skip("needs transformers and accelerate", allow_module_level=True)

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PretrainedConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.distributed import Ranks
from fairprune_plugin.engine.storage import checkpoint
from fairprune_plugin.errors import ConfigError, DataError, FairPruneWarning, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner, load_pruned, save_pruned
from fairprune_plugin.trainers.transformers import BiFPCallback
from trainer_data import (
    BATCH,
    CLIPPED_AT,
    EPOCHS,
    MICRO_BATCHES,
    Exchanging,
    assert_good_and_smaller,
    assert_same,
    assert_steps_were_left_out,
    batches,
    large_scale,
    network,
    own_loop,
    pruner_of,
    samples,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator:UserWarning")


class Net(nn.Module):
    """The network as a ``Trainer`` wants it; it takes no sensitive attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.config = PretrainedConfig()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def rows(count: int = MICRO_BATCHES * BATCH) -> list[dict[str, Any]]:
    return [{"x": x, "labels": int(y), "sensitive": int(s)} for x, y, s in zip(*samples(count), strict=True)]


class InOrder(Trainer):
    """Batches come as the loop of one's own has them."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    settings = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_strategy": "no",
    }
    return TrainingArguments(str(folder), **{**settings, **options})


def trainer_of(
    model: nn.Module, args: TrainingArguments, data: Any = None, kind: Any = InOrder, **more: Any
) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = rows() if data is None else data
    return kind(model=model, args=args, train_dataset=data, optimizers=(optimizer, None), **more)


def pruner_for(model: Net, **options: Any) -> BiFPPruner:
    return pruner_of(model, {"x": torch.zeros(2, 6)}, output_transform=lambda out: out["logits"], **options)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clipping", [False, True])
def test_it_is_the_loop_of_ones_own(accumulate: int, clipping: bool, tmp_path: Path) -> None:
    model = Net()
    args = arguments(tmp_path, gradient_accumulation_steps=accumulate, max_grad_norm=CLIPPED_AT if clipping else 0.0)
    trainer = trainer_of(model, args)
    callback = BiFPCallback(pruner_for(model)).attach(trainer)
    trainer.train()
    expected = own_loop(clip_before=clipping, accumulate=accumulate)
    assert callback.removed
    assert model.net.fc1.out_features == 8
    assert_same(model.net, callback.session.pruner, expected)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clipping", [False, True])
def test_float16_is_the_loop_of_ones_own_with_a_scaler(
    accumulate: int, clipping: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, own_scaler = Net(), large_scale()
    args = arguments(tmp_path, gradient_accumulation_steps=accumulate, max_grad_norm=CLIPPED_AT if clipping else 0.0)
    trainer = trainer_of(model, args)
    scaler = in_float16(trainer, monkeypatch)
    callback = BiFPCallback(pruner_for(model)).attach(trainer)
    trainer.train()
    expected = own_loop(clip_before=clipping, accumulate=accumulate, scaler=own_scaler)
    assert_steps_were_left_out(own_scaler)
    assert scaler.get_scale() == own_scaler.get_scale()
    assert_same(model.net, callback.session.pruner, expected)


def in_float16(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> torch.amp.GradScaler:
    """What accelerate sets up for ``fp16=True`` on a GPU; on a CPU it trains in float32 instead."""
    scaler = large_scale()
    trainer.accelerator.native_amp, trainer.accelerator.scaler = True, scaler
    monkeypatch.setitem(vars(trainer.accelerator.state), "_mixed_precision", "fp16")  # shared by all accelerators
    return scaler


def test_evaluation_needs_no_sensitive_attribute_and_takes_the_smaller_model(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path, num_train_epochs=1, eval_strategy="epoch"), eval_dataset=rows(40))
    callback = BiFPCallback(pruner_for(model)).attach(trainer)
    trainer.train()
    assert callback.removed
    without = [{"x": row["x"], "labels": row["labels"]} for row in rows(40)]
    for data in (without, rows(40)):
        loss = trainer.evaluate(data)["eval_loss"]
        x, y, _ = samples(40)
        with torch.no_grad():
            assert loss == pytest.approx(float(F.cross_entropy(model(x)["logits"], y)), abs=1e-5)
    unlabelled = [{"x": row["x"], "sensitive": row["sensitive"]} for row in rows(40)]
    for data in (without, unlabelled):
        predicted = trainer.predict(data)
        assert predicted.predictions.shape == (40, 2)
    assert predicted.label_ids is None
    trainer.label_names = ["labels", "sensitive"]  # for metrics of the user's own
    labels, sensitive = trainer.predict(rows(40)).label_ids
    assert sensitive.tolist() == [row["sensitive"] for row in rows(40)]
    assert labels.tolist() == [row["labels"] for row in rows(40)]
    assert trainer.predict(unlabelled).predictions.shape == (40, 2)


def weighted(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A task loss of the user's own, as the trainer wants it."""
    weight = torch.tensor([1.0, 2.0])[labels]
    return (F.cross_entropy(outputs["logits"], labels, reduction="none") * weight).sum() / num_items_in_batch


def test_the_users_own_loss_is_the_task_loss(tmp_path: Path) -> None:
    model, other = Net(), Net()
    trainer = trainer_of(model, arguments(tmp_path), compute_loss_func=weighted)
    callback = BiFPCallback(pruner_for(model)).attach(trainer)
    trainer.train()
    weight = torch.tensor([1.0, 2.0])

    def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
        return (F.cross_entropy(logits, targets, reduction="none") * weight[targets]).mean()

    second = trainer_of(other, arguments(tmp_path))
    again = BiFPCallback(pruner_for(other, task_loss=task_loss)).attach(second)
    second.train()
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same)
    assert torch.equal(callback.session.pruner.removed_rounds[0], again.session.pruner.removed_rounds[0])


def test_several_attributes_are_several_columns(tmp_path: Path) -> None:
    model = Net()
    data = [{**row, "gender": row["sensitive"], "age": number % 2} for number, row in enumerate(rows())]
    data = [{key: value for key, value in row.items() if key != "sensitive"} for row in data]
    constraint = EqualOpportunity(tolerance=0.02, groups={"gender": 2, "age": 2})
    pruner = pruner_of(model, {"x": torch.zeros(2, 6)}, constraint=constraint)
    trainer = trainer_of(model, arguments(tmp_path, num_train_epochs=1), data)
    held_out = torch.utils.data.DataLoader(data[:32], batch_size=16)
    callback = BiFPCallback(pruner, sensitive=("gender", "age"), validation=held_out).attach(trainer)
    trainer.train()
    assert callback.session.history[-1].step == MICRO_BATCHES
    assert bool((pruner.lagrangian.trackers[0].counts.totals > 0).all())


class OfTwo(Ranks):
    """As one of two ranks with batches of different sizes."""

    size = 2

    def __init__(self, sizes: tuple[int, int], items: tuple[int, int]) -> None:
        super().__init__()
        self.sizes, self.items = sizes, items

    def meet(self, samples: int) -> float:
        return sum(self.sizes) / 2

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        assert tuple(tensor.tolist()) in zip(self.sizes, self.items, strict=True)
        return torch.tensor([sum(self.sizes), sum(self.items)], dtype=tensor.dtype)


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("own", [False, True])
def test_ranks_with_batches_of_different_sizes_are_weighed_once(averaged: bool, own: bool, tmp_path: Path) -> None:
    """As torchrun does it: the trainer multiplies by the number of ranks, data parallelism averages over them."""
    x, y, _ = samples(24)
    model = Net()
    logits = model(x)["logits"]
    total = 0.0
    for part, of_other in ((slice(0, 16), 8), (slice(16, 24), 16)):
        here = len(y[part])
        args = arguments(tmp_path, average_tokens_across_devices=averaged)
        trainer = trainer_of(model, args, compute_loss_func=weighted if own else None)
        callback = BiFPCallback(pruner_for(model, constraint=None, total_steps=8)).attach(trainer)
        callback.session.pruner.lagrangian.ranks = OfTwo((16, 8), (24, 24) if averaged else (16, 8))
        items = here + of_other if averaged else here
        loss = callback.compute_loss({"logits": logits[part]}, y[part], num_items_in_batch=torch.tensor(items))
        total += float(loss.detach()) * (2 if averaged else 1) / 2
    if own and not averaged:  # as the user has written it: a mean of each rank
        parts = (slice(0, 16), slice(16, 24))
        expected = sum(weighted({"logits": logits[p]}, y[p], torch.tensor(len(y[p]))) for p in parts) / 2
    else:
        expected = weighted({"logits": logits}, y, 24) if own else F.cross_entropy(logits, y)
    assert total == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("averaged", [True, False])
def test_the_evaluation_loss_of_several_ranks_is_that_of_one(averaged: bool, tmp_path: Path) -> None:
    """As torchrun does it: counted over all ranks, the trainer multiplies by their number, and takes the mean over them."""
    x, y, _ = samples(24)
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path, average_tokens_across_devices=averaged))
    callback = BiFPCallback(pruner_for(model, constraint=None, total_steps=8)).attach(trainer)
    total = 0.0
    with torch.no_grad():
        logits = model(x)["logits"]
        for part in (slice(0, 12), slice(12, 24)):
            items = torch.tensor(24 if averaged else 12)
            loss = callback.compute_loss({"logits": logits[part]}, y[part], num_items_in_batch=items)
            total += float(loss) * (2 if averaged else 1) / 2
        assert total == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)


class StopAt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 5


def with_validation(model: Net) -> BiFPCallback:
    held_out = [{"x": x, "labels": y, "sensitive": s} for x, y, s in batches(2, seed=1)]
    late = {"ramp_end": 0.5}  # so that training can stop before the target
    return BiFPCallback(pruner_for(model, bilevel=late), validation=held_out, validate_every=4)


def test_the_trainers_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    def made(folder: str, *more: Any, seed: int = 3) -> tuple[Net, BiFPCallback, Trainer]:
        torch.manual_seed(0)
        model = Net()
        args = arguments(tmp_path / folder, save_strategy="steps", save_steps=5, seed=seed)
        trainer = trainer_of(model, args, kind=Trainer, callbacks=list(more))  # shuffled by the trainer
        return model, with_validation(model).attach(trainer), trainer

    whole, uninterrupted, trainer = made("whole")
    trainer.train()
    _, _, trainer = made("parts", StopAt())
    with pytest.warns(FairPruneWarning, match="training stopped after 5 of 24 steps"):
        trainer.train()
    again, callback, trainer = made("parts")
    with torch.no_grad():
        again.net.fc1.weight.normal_()  # nothing but the checkpoint may matter
    trainer.train(resume_from_checkpoint=True)
    assert_same(again, callback.session.pruner, (whole, uninterrupted.session.pruner))
    assert callback.session.history == uninterrupted.session.history
    # From elsewhere, into a folder with a checkpoint of that step by another run.
    elsewhere, own = tmp_path / "whole" / "checkpoint-5", tmp_path / "third" / "checkpoint-5"
    _, _, trainer = made("third", StopAt(), seed=4)
    with pytest.warns(FairPruneWarning, match="training stopped after 5 of 24 steps"):
        trainer.train()
    assert (own / "fairprune.pt").read_bytes() != (elsewhere / "fairprune.pt").read_bytes()
    third, callback, trainer = made("third")
    trainer.train(resume_from_checkpoint=str(elsewhere))
    assert_same(third, callback.session.pruner, (whole, uninterrupted.session.pruner))
    # With the pruner's state somewhere else.
    state = (elsewhere / "fairprune.pt").rename(tmp_path / "fairprune.pt")
    fourth, callback, trainer = made("fourth")
    with pytest.raises(TrainingStateError, match=r"no fairprune\.pt in .*whole.checkpoint-5.*load_checkpoint"):
        trainer.train(resume_from_checkpoint=str(elsewhere))
    fourth, callback, trainer = made("fourth")
    callback.load_checkpoint(state.parent)
    trainer.train(resume_from_checkpoint=str(elsewhere))
    assert_same(fourth, callback.session.pruner, (whole, uninterrupted.session.pruner))


def test_metrics_go_out_with_the_trainers_log(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path, logging_strategy="steps", logging_steps=8))
    with_validation(model).attach(trainer)
    trainer.train()
    logged = {(row["step"], name) for row in trainer.state.log_history for name in row}
    assert {(8, "multiplier/equal_opportunity"), (24, "train/gap/equal_opportunity"), (8, "loss")} <= logged
    assert {(step, "validation/gap/equal_opportunity") for step in (4, 8, 24)} <= logged


def test_bert(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=16, num_labels=2, **sizes))
    attention = model.bert.encoder.layer[0].attention.self
    example = {"input_ids": torch.zeros(1, 8, dtype=torch.long), "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    pruner = BiFPPruner(
        model,
        example,
        pruning_ratio=0.5,
        num_heads={layer: 2 for layer in (attention.query, attention.key, attention.value)},
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=[model.classifier],
        constraint=EqualOpportunity(tolerance=0.02),
        output_transform=lambda out: out.logits.sum(),
    )
    data = [
        {"input_ids": torch.randint(0, 20, (8,)), "attention_mask": torch.ones(8, dtype=torch.long), "labels": i % 2}
        | {"sensitive": i // 2 % 2}
        for i in range(64)
    ]
    args = arguments(
        tmp_path, max_steps=6, per_device_train_batch_size=8, gradient_accumulation_steps=2, max_grad_norm=1.0
    )
    trainer = trainer_of(model, args, data, kind=Trainer)
    callback = BiFPCallback(pruner).attach(trainer)
    trainer.train()
    assert callback.removed
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 16
    logits = trainer.predict(data).predictions
    assert logits.shape == (64, 2)
    save_pruned(model, pruner, tmp_path / "pruned.safetensors")
    dense = BertForSequenceClassification(model.config)
    smaller = load_pruned(
        dense, tmp_path / "pruned.safetensors", example, output_transform=lambda out: out.logits.sum()
    )
    again = trainer_of(smaller, args, data, kind=Trainer).predict(data).predictions
    assert torch.equal(torch.from_numpy(again), torch.from_numpy(logits))


# ---- refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "load_best_model_at_end",
        ),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path, **options), eval_dataset=rows(16))
    with pytest.raises(ConfigError, match=message):
        BiFPCallback(pruner_for(model)).attach(trainer)


def test_a_trainer_that_builds_its_model_itself(tmp_path: Path) -> None:
    trainer = Trainer(model_init=Net, args=arguments(tmp_path), train_dataset=rows())
    with pytest.raises(ConfigError, match=r"model_init: train\(\) builds another model .*Trainer\(model=…\)"):
        BiFPCallback(pruner_for(trainer.model)).attach(trainer)


def test_an_optimizer_that_exchanges_weights_is_refused(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path))
    trainer.optimizer = Exchanging(model.parameters(), lr=0.1)
    BiFPCallback(pruner_for(model)).attach(trainer)
    with pytest.raises(ConfigError, match=r"Exchanging exchanges the weights .* use pruner\.fit"):
        trainer.train()


def test_a_callback_that_was_not_attached(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path), callbacks=[BiFPCallback(pruner_for(model))])
    with pytest.raises(TrainingStateError, match=r"BiFPCallback\(pruner\)\.attach\(trainer\)"):
        trainer.train()


def test_bfloat16(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path, bf16=True))
    callback = with_validation(model).attach(trainer)
    trainer.train()
    assert_good_and_smaller(model.net, callback.session.pruner)


def test_a_length_that_cannot_be(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path))
    BiFPCallback(pruner_for(model, total_steps=7)).attach(trainer)
    with pytest.raises(ConfigError, match="the trainer will take 24 optimizer steps, but total_steps=7"):
        trainer.train()


def test_another_model_or_a_second_trainer_is_refused(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path))
    with pytest.raises(ConfigError, match=r"another model than the trainer's"):
        BiFPCallback(pruner_for(Net())).attach(trainer)
    with pytest.raises(ConfigError, match=r"expected a transformers\.Trainer, got a Net"):
        BiFPCallback(pruner_for(model)).attach(model)
    callback = BiFPCallback(pruner_for(model)).attach(trainer)
    with pytest.raises(ConfigError, match="attached to a trainer already"):
        callback.attach(trainer)


def test_a_batch_without_the_sensitive_attribute(tmp_path: Path) -> None:
    model = Net()
    data = [{"x": row["x"], "labels": row["labels"]} for row in rows()]
    trainer = trainer_of(model, arguments(tmp_path), data)
    BiFPCallback(pruner_for(model)).attach(trainer)
    with pytest.raises(DataError, match=r"the batch has no 'sensitive'.*remove_unused_columns=False"):
        trainer.train()


def test_a_batch_without_labels(tmp_path: Path) -> None:
    model = Net()
    data = [{"x": row["x"], "sensitive": row["sensitive"]} for row in rows()]
    trainer = trainer_of(model, arguments(tmp_path), data)
    BiFPCallback(pruner_for(model)).attach(trainer)
    with pytest.raises(DataError, match="expected the targets under 'labels'"):
        trainer.train()


class OwnLoss(InOrder):
    """Overrides ``compute_loss`` and asks nobody."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return model(**inputs)["loss"]


def test_a_trainer_that_does_not_ask_for_our_loss(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path), kind=OwnLoss)
    BiFPCallback(pruner_for(model)).attach(trainer)
    with pytest.raises(TrainingStateError, match=r"OwnLoss\.compute_loss did not call compute_loss_func"):
        trainer.train()


def test_a_finished_pruner_is_not_trained_on(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(model, arguments(tmp_path, num_train_epochs=1))
    BiFPCallback(pruner_for(model)).attach(trainer)
    trainer.train()
    with pytest.raises(TrainingStateError, match="has removed its channels already"):
        trainer.train()


EARLIER = {"early": {"remove_early": True}, "in two rounds": {"iterative_steps": 2}}


@pytest.mark.parametrize("kind", EARLIER)
@pytest.mark.parametrize("half", [False, True])
def test_channels_that_go_before_the_end(
    kind: str, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, rounds = kind == "early", EARLIER[kind].get("iterative_steps", 1)
    model, own_scaler = Net(), large_scale() if half else None
    trainer = trainer_of(model, arguments(tmp_path))
    if half:
        in_float16(trainer, monkeypatch)
    callback = BiFPCallback(pruner_for(model, iterative_steps=rounds), remove_early=early).attach(trainer)
    trainer.train()
    expected = own_loop(remove_early=early, iterative_steps=rounds, scaler=own_scaler)
    assert_same(model.net, callback.session.pruner, expected)
    assert model.net.fc1.out_features == 8


@pytest.mark.parametrize("own_optimizer", [False, True])
@pytest.mark.parametrize("kind", EARLIER)
def test_a_checkpoint_of_after_a_removal(kind: str, own_optimizer: bool, tmp_path: Path) -> None:
    early, rounds = kind == "early", EARLIER[kind].get("iterative_steps", 1)

    def made(folder: str, *, attached: bool = True) -> tuple[Net, BiFPCallback, Trainer]:
        torch.manual_seed(0)
        model = Net()
        args = arguments(
            tmp_path / folder,
            save_strategy="steps",
            save_steps=3,
            seed=3,
            lr_scheduler_type="cosine",
            learning_rate=0.01,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) if own_optimizer else None
        trainer = Trainer(model=model, args=args, train_dataset=rows(), optimizers=(optimizer, None))
        held_out = [{"x": x, "labels": y, "sensitive": s} for x, y, s in batches(2, seed=1)]
        callback = BiFPCallback(
            pruner_for(model, iterative_steps=rounds), remove_early=early, validation=held_out, validate_every=4
        )
        return model, callback.attach(trainer) if attached else callback, trainer

    whole, uninterrupted, trainer = made("whole")
    trainer.train()
    widths = set()
    for step in range(3, 25, 3):
        model, callback, trainer = made("again")
        with torch.no_grad():
            model.net.fc1.weight.normal_()  # nothing but the checkpoint may matter
        folder = tmp_path / "whole" / f"checkpoint-{step}"
        widths.add(len(checkpoint.read(folder / "fairprune.pt")["pruner"]["removed"]))
        trainer.train(resume_from_checkpoint=str(folder))
        assert_same(model, callback.session.pruner, (whole, uninterrupted.session.pruner))
        assert callback.session.history == uninterrupted.session.history
    assert len(widths) > 1
    # With the pruner's state somewhere else, loaded in front of the trainer or behind it.
    state = (folder / "fairprune.pt").rename(tmp_path / "fairprune.pt")
    for before_attach in (False, True):
        model, callback, trainer = made("once more", attached=not before_attach)
        callback.load_checkpoint(state.parent)
        if before_attach:
            callback.attach(trainer)
        trainer.train(resume_from_checkpoint=str(folder))
        assert_same(model, callback.session.pruner, (whole, uninterrupted.session.pruner))


def test_the_same_objects_go_on_from_a_checkpoint_of_after_the_removal(tmp_path: Path) -> None:
    class BreaksOff(TrainerCallback):
        on = True

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.on and state.global_step == 22:
                raise KeyError

    breaks = BreaksOff()
    args = arguments(tmp_path, save_strategy="steps", save_steps=20)
    model = Net()
    trainer = trainer_of(model, args, callbacks=[breaks])
    callback = BiFPCallback(pruner_for(model), remove_early=True).attach(trainer)
    with pytest.raises(KeyError):
        trainer.train()
    with pytest.raises(TrainingStateError, match=r"broken off after 22 of 24 steps: .*resume from a checkpoint"):
        trainer.train()
    breaks.on = False
    trainer.train(resume_from_checkpoint=True)
    assert_same(model.net, callback.session.pruner, own_loop(remove_early=True))
