"""What ``fit`` was given, looked at before any training."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from fairprune_plugin.engine.results.snapshots import AUTO
from fairprune_plugin.engine.run.preflight import check_held_out, check_optimizer, check_schedule, planned_steps
from fairprune_plugin.errors import ConfigError, FairPruneWarning


def endless() -> Iterator[int]:
    while True:
        yield 0


def test_steps_from_epochs_or_from_the_pruner() -> None:
    assert planned_steps(None, 3, [0] * 7) == 21
    assert planned_steps(50, None, [0] * 7) == 50
    assert planned_steps(50, None, endless()) == 50
    assert planned_steps(21, 3, [0] * 7) == 21


@pytest.mark.parametrize(
    ("total", "epochs", "loader", "message"),
    [
        (None, None, [0], "epochs to fit"),
        (20, 3, [0] * 7, "are 21 steps, but total_steps=20"),
        (None, 3, endless(), "no length"),
        (None, 0, [0], "positive whole number"),
        (None, -1, [0], "positive whole number"),
        (None, 1.5, [0], "positive whole number"),
    ],
    ids=["neither", "contradiction", "no-length", "zero", "negative", "fraction"],
)
def test_unclear_lengths_are_refused(total, epochs, loader, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned_steps(total, epochs, loader)


def test_parameters_that_no_group_of_the_optimizer_holds_are_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    with pytest.warns(FairPruneWarning, match=r"2 trainable parameters \(first: 0\.weight\) are in no group"):
        check_optimizer(optimizer, None, model)
    model[0].requires_grad_(False)
    check_optimizer(optimizer, None, model)  # warnings are errors here


def test_an_optimizer_that_computes_the_loss_itself_is_refused() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r"LBFGS computes the loss itself.*loop of your own"):
        check_optimizer(torch.optim.LBFGS(model.parameters(), max_iter=1), None, model)
    optimizer = torch.optim.AdamW(model.parameters())
    check_optimizer(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3), model)


def test_a_schedule_that_ends_too_soon_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)
    check_schedule(schedule, 6)
    with pytest.raises(ConfigError, match="7 times, and this OneCycleLR has 6 of 6 steps left"):
        check_schedule(schedule, 7)
    for _ in range(6):  # what was not refused does run
        optimizer.step()
        schedule.step()
    with pytest.raises(ConfigError, match="has 0 of 6 steps left"):
        check_schedule(schedule, 1)
    check_schedule(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6), 7)
    check_schedule(None, 7)


PLAIN: Any = SimpleNamespace(select_by=AUTO, on_evaluation=None)
DATA = TensorDataset(torch.zeros(8, 2))


def test_validation_data_that_are_the_training_data_are_pointed_out() -> None:
    batches = [1, 2]
    for train, validation in (
        (batches, batches),
        (DataLoader(DATA, shuffle=True), DataLoader(DATA, batch_size=4)),
    ):
        with pytest.warns(FairPruneWarning, match=r"validation has the training data.*driver='folds'"):
            check_held_out(train, validation, PLAIN)


def test_parts_of_one_data_set_are_no_fault() -> None:
    """Warnings are errors here."""
    parts = (range(4), range(4, 8))
    samplers = [DataLoader(DATA, sampler=SubsetRandomSampler(list(part))) for part in parts]
    subsets = [DataLoader(Subset(DATA, part)) for part in parts]
    for train, validation in (samplers, subsets, ([1, 2], [1, 2]), (DataLoader(DATA), None)):
        check_held_out(train, validation, PLAIN)


@pytest.mark.parametrize("given", [{"select_by": "gap"}, {"on_evaluation": print}], ids=["select_by", "on_evaluation"])
def test_settings_that_need_validation_data_are_refused_without(given: dict[str, Any]) -> None:
    options: Any = SimpleNamespace(**{**vars(PLAIN), **given})
    with pytest.raises(ConfigError, match=f"{next(iter(given))} has no effect without validation data"):
        check_held_out([1], None, options)
    check_held_out([1], [2], options)
