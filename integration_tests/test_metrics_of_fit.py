"""The metrics hook of ``fit`` sees every step and every evaluation, and changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fairprune_plugin.errors import ConfigError
from resumable_run import STEPS, facts, train


class Recorder:
    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.evaluations: list[Any] = []

    def on_step(self, row: Any) -> None:
        self.steps.append((row.step, row.mask_step, row.progress, row.scalars()))

    def on_evaluation(self, row: Any) -> None:
        self.evaluations.append(row)


def test_every_step_and_evaluation_of_both_rounds() -> None:
    one, two, function = Recorder(), Recorder(), []
    result, pruner = train(None, metrics=[one, two], on_evaluation=function.append)
    assert [step for step, _, _, _ in one.steps] == list(range(1, STEPS + 1))
    assert any(mask for _, mask, _, _ in one.steps)
    assert not all(mask for _, mask, _, _ in one.steps)
    progress = [share for _, _, share, _ in one.steps]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    names = {"train/loss", "train/mask_step", "pruned", "multiplier/equal_opportunity", "train/gap/equal_opportunity"}
    assert all(set(scalars) <= names and all(map(math.isfinite, scalars.values())) for *_, scalars in one.steps)
    assert one.steps[-1][3]["multiplier/equal_opportunity"] == max(
        pruner.lagrangian.trackers[0].multipliers.value.flatten().tolist()
    )
    assert one.evaluations == two.evaluations == function == result.history
    assert {row.constraints for row in result.history} == {("equal_opportunity",)}


def test_whoever_watches_changes_nothing() -> None:
    watched, alone = train(None, metrics=Recorder()), train(None)
    assert facts(*watched)["report"] == facts(*alone)["report"]


def test_a_function_is_no_hook() -> None:
    with pytest.raises(ConfigError, match="for a plain function use on_evaluation"):
        train(None, metrics=print)


def test_a_hook_that_leaves_the_model_in_eval_mode_does_not_change_how_it_is_trained() -> None:
    seen: list[Any] = []

    def forward(model: Any, x: Any) -> Any:
        seen.append(model)
        return model(x)

    watched = train(None, forward=forward, on_evaluation=lambda row: seen[-1].eval())
    assert facts(*watched)["report"] == facts(*train(None, forward=forward))["report"]
