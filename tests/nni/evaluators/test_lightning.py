"""Where the tasks run when the optimizer computes loss and gradient in a closure, as Lightning's do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fairprune_plugin.nni.evaluators.lightning import patch_optimizer_step

SHAPES = {
    "optimizers": lambda optimizer, _: [optimizer],
    "two lists": lambda optimizer, scheduler: ([optimizer], [scheduler]),
    "dictionaries": lambda optimizer, scheduler: [{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}],
}


class Bound:
    """What NNI's evaluator holds of a model, and a record of what happened in which order."""

    def __init__(self, shape: str = "optimizers", cls: Any = torch.optim.SGD, **options: Any) -> None:
        self.weight = nn.Parameter(torch.ones(2))
        self.optimizer = cls([self.weight], lr=0.1, **options)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)
        self.evaluator = SimpleNamespace(
            model=SimpleNamespace(configure_optimizers=lambda: SHAPES[shape](self.optimizer, self.scheduler))
        )
        self.events: list[str] = []

    def task(self, name: str) -> Any:
        def run() -> None:
            gradient = "no gradient" if self.weight.grad is None else "gradient"
            moved = "after" if bool((self.weight != 1).any()) else "before"
            self.events.append(f"{name}: {gradient}, {moved} the update")

        return run

    def closure(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = (self.weight**2).sum()
        loss.backward()
        self.events.append("closure")
        return loss


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keyword", [True, False])
def test_tasks_see_the_gradient_of_their_own_step(shape: str, keyword: bool) -> None:
    bound = Bound(shape)
    patch_optimizer_step(bound.evaluator, [bound.task("early")], [bound.task("late")])
    bound.evaluator.model.configure_optimizers()
    loss = (
        bound.optimizer.step(closure=bound.closure) if keyword else bound.optimizer.step(bound.closure)
    )  # Lightning uses the keyword
    assert loss == 2
    assert bound.events == ["closure", "early: gradient, before the update", "late: gradient, after the update"]


def test_without_a_closure_the_tasks_run_around_the_call() -> None:
    """Mixed precision and manual optimisation."""
    bound = Bound()
    patch_optimizer_step(bound.evaluator, [bound.task("early")], [bound.task("late")])
    bound.evaluator.model.configure_optimizers()
    bound.closure()
    bound.optimizer.step()
    assert bound.events[1:] == ["early: gradient, before the update", "late: gradient, after the update"]


def test_several_patches_nest_as_in_nnis_other_evaluators() -> None:
    bound = Bound()
    for name in ("first", "second"):
        patch_optimizer_step(bound.evaluator, [bound.task(f"{name} before")], [bound.task(f"{name} after")])
    bound.evaluator.model.configure_optimizers()
    bound.optimizer.step(closure=bound.closure)
    assert [event.partition(":")[0] for event in bound.events] == [
        "closure", "second before", "first before", "first after", "second after",
    ]  # fmt: skip


def test_a_closure_evaluated_several_times_is_still_one_step() -> None:
    bound = Bound(cls=torch.optim.LBFGS, max_iter=4)
    patch_optimizer_step(bound.evaluator, [bound.task("early")], [bound.task("late")])
    bound.evaluator.model.configure_optimizers()
    bound.optimizer.step(closure=bound.closure)
    assert bound.events.count("closure") > 1
    assert bound.events[:2] == ["closure", "early: gradient, before the update"]
    assert sum(event.startswith("early") for event in bound.events) == 1
    assert sum(event.startswith("late") for event in bound.events) == 1


def test_the_learning_rate_schedule_does_not_take_the_patch_for_an_override() -> None:
    """Under ``filterwarnings=error`` torch's warning about an overridden ``step`` would fail this test."""
    bound = Bound("two lists")
    patch_optimizer_step(bound.evaluator, [], [])
    bound.evaluator.model.configure_optimizers()
    bound.optimizer.step(closure=bound.closure)
    bound.scheduler.step()
    assert bound.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
