"""When the goals move: steps, shares of the run, epochs, and runs that end early."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import Tensor, nn

from fairprune_plugin import BiLevelConfig, EqualOpportunity
from fairprune_plugin.errors import ConfigError, FairPruneWarning
from fairprune_plugin.nni import BiFPPruner
from nni_toys import batches, config, evaluator, loop, mlp

X = batches(1)[0][0]


@pytest.mark.parametrize("dummy", [None, X], ids=["rows", "consumers"])
def test_sparsity_follows_the_schedule(dummy: Tensor | None) -> None:
    model = mlp()
    seen = []
    pruner = BiFPPruner(
        model,
        config(),
        evaluator(model, dummy_input=dummy, watch=lambda *_: seen.append(int((~pruner.weights.keep).sum()))),
        4,
        16,
        bilevel=BiLevelConfig(schedule="linear", weight_steps_per_mask_step=0, joint=True),
    )
    pruner.compress(20, None)
    due = [min(max(step - 4, 0) / 12, 1) for step in range(1, 21)]
    assert seen == [2 * int(8 * share + 1e-6) for share in due]


def test_shares_of_the_run_place_the_schedule_by_default() -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model), bilevel={"warmup": 0.1, "ramp_end": 0.5})
    pruner.compress(40, None)
    assert pruner.engine.timetable.ramp_begin == 4
    assert pruner.engine.timetable.ramp_end == 20


@pytest.mark.parametrize(("length", "planned"), [((60, None), 60), ((None, 3), 400)])
def test_multipliers_keep_pace_with_the_run_and_not_with_the_ramp(
    length: tuple[int | None, int | None], planned: int
) -> None:
    model = mlp()
    fair: dict[str, Any] = {"constraint": EqualOpportunity(0.02), "sensitive": lambda batch: batch[2]}
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 6, **fair)
    pruner.compress(*length)
    multipliers = pruner.lagrangian.trackers[0].multipliers
    assert multipliers.lr * math.prod(multipliers.shape) == pytest.approx(80 / planned)


def test_a_warmup_that_the_default_ramp_ignores_is_refused_before_training() -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model), 90)
    with pytest.raises(ConfigError, match="warmup_step=90 is not before"):
        pruner.compress(100, None)
    pruner.cooldown_begin_step = 95
    seen: list[int] = []
    pruner.evaluator.training_func = loop(batches(), lambda *_: seen.append(int((~pruner.weights.keep).sum())))
    pruner.compress(100, None)
    assert set(seen[:90]) == {0}
    assert set(seen[94:]) == {16}


@pytest.mark.parametrize("length", [(None, None), ("10", None), (10.0, None)])
def test_lengths_that_cannot_be(length: tuple[Any, Any]) -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 6)
    with pytest.raises(ConfigError, match="max_steps"):
        pruner.compress(*length)
    assert pruner.engine is None
    pruner.compress(8, None)  # nothing has happened yet


def test_training_that_stops_between_the_goals_and_max_steps() -> None:
    """The masks are final and stay usable, but nobody is told the weights have settled."""

    def short(model: nn.Module, optimizer: Any, step: Any, *_: Any) -> None:
        loop(batches())(model, optimizer, step, max_steps=7)

    model = mlp()
    found = evaluator(model)
    found.training_func = short
    pruner = BiFPPruner(model, config(), found, 2, 6)
    with pytest.warns(
        FairPruneWarning, match=r"after 7 optimizer steps of max_steps=40.*settled for 1 steps instead of 34"
    ):
        _, masks = pruner.compress(40, None)
    assert masks["0"]["weight"].mean() == 0.5


def test_epochs_instead_of_steps() -> None:
    model = mlp()
    pruner = BiFPPruner(model, config(), evaluator(model), 2, 10)
    _, masks = pruner.compress(None, 4)
    assert masks["0"]["weight"].mean() == 0.5
