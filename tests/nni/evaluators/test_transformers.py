"""What a compressor adds to the loss keeps its weight, and its batch stays whole, whatever the trainer does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairprune_plugin.nni.evaluators.transformers import patch_loss

PENALTY = 0.5
MODEL = SimpleNamespace(training=True)


class Trainer:
    """The loss and its scaling as in transformers 5: ``compute_loss``, then what ``training_step`` does to it."""

    def __init__(
        self, *, accepts: bool = False, function: Any = None, says: bool | None = None, parts: int = 1
    ) -> None:
        self.model_accepts_loss_kwargs, self.compute_loss_func = accepts, function
        self.loss_is_scaled_for_ga, self.current_gradient_accumulation_steps = says, parts

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        loss = labels.sum() / (num_items_in_batch if self.normalises(num_items_in_batch) else len(labels))
        return (loss, "outputs") if return_outputs else loss

    def normalises(self, items: Any) -> bool:
        if self.loss_is_scaled_for_ga is not None:
            return self.loss_is_scaled_for_ga
        return (self.model_accepts_loss_kwargs and items is not None) or self.compute_loss_func is not None

    def step_loss(self, batches: list[torch.Tensor]) -> torch.Tensor:
        items = sum(map(len, batches))
        total = torch.zeros(())
        for labels in batches:
            loss = self.compute_loss(MODEL, {"labels": labels, "s": labels}, num_items_in_batch=items)
            total += loss if self.normalises(items) else loss / len(batches)
        return total


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"accepts": True}, {"function": print}, {"accepts": True, "says": False}, {"says": True}],
    ids=["own mean", "model", "function", "says no", "says yes"],
)
def test_an_added_penalty_counts_once_per_step(options: dict[str, Any], parts: int) -> None:
    batches = [torch.arange(4.0) + index for index in range(parts)]
    plain = Trainer(**options, parts=parts)
    expected = plain.step_loss(batches) + PENALTY
    trainer = Trainer(**options, parts=parts)
    patch_loss(SimpleNamespace(trainer=trainer), lambda loss, _: loss + PENALTY)
    torch.testing.assert_close(trainer.step_loss(batches), expected)


def test_the_patch_sees_the_batch_that_compute_loss_has_emptied() -> None:
    trainer, seen = Trainer(), []
    patch_loss(SimpleNamespace(trainer=trainer), lambda loss, batch: seen.append(set(batch)) or loss)
    inputs = {"labels": torch.ones(2), "s": torch.zeros(2)}
    trainer.compute_loss(MODEL, inputs)
    assert seen == [{"labels", "s"}]
    assert set(inputs) == {"s"}  # for the caller nothing changes


def test_evaluation_is_not_scaled_and_keeps_the_outputs() -> None:
    trainer = Trainer(accepts=True, parts=4)
    patch_loss(SimpleNamespace(trainer=trainer), lambda loss, _: 2 * loss**2)
    evaluating = SimpleNamespace(training=False)
    loss, outputs = trainer.compute_loss(evaluating, {"labels": torch.full((3,), 2.0)}, True, 3)
    assert (loss, outputs) == (8, "outputs")


def test_patches_nest() -> None:
    trainer = Trainer()
    evaluator = SimpleNamespace(trainer=trainer)
    patch_loss(evaluator, lambda loss, _: loss + 1)
    patch_loss(evaluator, lambda loss, _: loss * 10)
    assert trainer.compute_loss(MODEL, {"labels": torch.ones(2)}) == 20
