"""``fit``: the whole run in one call, on a small biased data set."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from driving import SGD, Batches, SmallCNN, SmallMLP, example_of, stray_hooks, widths
from fairprune_plugin import (
    AccuracyParity,
    Constraint,
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
)
from fairprune_plugin.engine.results.result import FitResult, HistoryRow
from fairprune_plugin.errors import (
    ConfigError,
    FairPruneWarning,
    NonFiniteError,
    TrainingStateError,
)
from fairprune_plugin.torch_pruning import BiFPPruner


def biased(samples: int, *, seed: int, groups: int = 2, classes: int = 2, batch: int = 32) -> Batches:
    """Labels that a linear rule explains well for group 0 and, with more label noise, less for the others."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99)) * 1.5
    y = torch.randint(0, classes, (samples,), generator=generator)
    s = torch.randint(0, groups, (samples,), generator=generator)
    x = centers[y] + torch.randn(samples, 6, generator=generator) + 0.3 * s[:, None]
    flipped = torch.rand(samples, generator=generator) < 0.08 * s
    y = torch.where(flipped, torch.randint(0, classes, (samples,), generator=generator), y)
    return [(x[i : i + batch], y[i : i + batch], s[i : i + batch]) for i in range(0, samples, batch)]


TRAIN, VALIDATION = biased(256, seed=0), biased(200, seed=1)
EPOCHS = 8  # 64 steps


def build(constraint: Any = None, *, classes: int = 2, seed: int = 0, **options: Any) -> tuple[SmallMLP, BiFPPruner]:
    torch.manual_seed(seed)
    model = SmallMLP(classes=classes)
    options = {"pruning_ratio": 0.5, "bilevel": {"warmup": 0.05, "ramp_end": 0.5}, **options}
    return model, BiFPPruner(model, example_of(model), ignored_layers=[model.head], constraint=constraint, **options)


def fit(model: nn.Module, pruner: BiFPPruner, **options: Any) -> FitResult:
    defaults = {"validation": VALIDATION, "epochs": EPOCHS, "progress": False}
    return pruner.fit(options.pop("train", TRAIN), options.pop("optimizer", adam(model)), **{**defaults, **options})


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.02)


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Counted by hand."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y, _ in batches)
    return right / sum(len(y) for _, y, _ in batches)


def largest_gap(model: nn.Module, batches: Batches, condition: int | None = None) -> float:
    """Difference of accuracies between groups (among true ``condition``, if given), counted by hand."""
    x, y, s = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        right = model.eval()(x).argmax(1) == y
    where = torch.ones_like(right) if condition is None else y == condition
    rates = [float(right[where & (s == group)].float().mean()) for group in s.unique()]
    return max(rates) - min(rates)


# ---- what comes out ----------------------------------------------------------------------------------------


def test_a_feasible_model_of_the_target_size_comes_back() -> None:
    model, pruner = build(EqualOpportunity(tolerance=0.15))
    result = fit(model, pruner)
    assert result.model is model
    assert (model.fc1.out_features, model.fc2.out_features) == (8, 8)
    assert result.pruned.params == sum(p.numel() for p in model.parameters())
    assert result.dense.params == sum(p.numel() for p in SmallMLP().parameters())
    assert result.pruned.macs < result.dense.macs
    assert result.pruned.channels == 16
    assert result.dense.channels == 32
    # The report is about the model that is returned.
    assert result.after.accuracy == pytest.approx(accuracy(model, VALIDATION))
    assert result.after.accuracy > 0.8
    (verdict,) = result.after.verdicts
    assert verdict.gap == pytest.approx(largest_gap(model, VALIDATION, condition=1), abs=1e-6)
    assert result.feasible
    assert verdict.gap <= 0.15
    assert "holds" in result.message
    assert "NOT FEASIBLE" not in result.message
    assert result.passes == 64
    assert list(stray_hooks(model)) == []


def test_the_best_snapshot_at_the_target_is_returned() -> None:
    """Feasible before accurate, and only what has the target size may win."""
    rows: list[HistoryRow] = []
    states: list[dict[str, Tensor]] = []
    model, pruner = build(AccuracyParity(tolerance=0.08))

    def look(row: HistoryRow) -> None:
        rows.append(row)
        states.append(copy.deepcopy(model.state_dict()))

    result = fit(model, pruner, on_evaluation=look, validate_every=2, recalibration_batches=0)
    assert [row.step for row in rows] == list(range(2, 65, 2))
    assert result.history == rows
    candidates = [row for row in rows if row.progress == 1.0]
    assert candidates[0].step == 32  # the ramp ends at half of the run
    best = max(candidates, key=lambda row: (-max(0.0, row.gaps[0] - 0.08), row.accuracy))
    assert result.after.accuracy == pytest.approx(best.accuracy)
    assert result.after.verdicts[0].gap == pytest.approx(best.gaps[0])
    assert result.feasible == best.feasible


def test_what_cannot_be_met_is_said_plainly() -> None:
    model, pruner = build(AccuracyParity(tolerance=0.0))
    sizes = torch.bincount(torch.cat([s for _, _, s in VALIDATION]))
    assert sizes[0] != sizes[1]  # equal accuracies other than 0 and 1 are then next to impossible
    result = fit(model, pruner)
    assert not result.feasible
    assert result.message.startswith("NOT FEASIBLE")
    assert "nearest" in result.message
    assert json.loads(result.to_json())["feasible"] is False
    assert model.fc1.out_features == 8  # the model is there all the same


def test_the_result_round_trips_through_json() -> None:
    model, pruner = build([EqualizedOdds(tolerance=0.1, groups=["a", "b"]), AccuracyParity(0.1, groups=["a", "b"])])
    result = fit(model, pruner)
    read = json.loads(result.to_json())
    assert read["after"]["accuracy"] == result.after.accuracy
    assert read["dense"]["params"] == result.dense.params
    assert [row["step"] for row in read["history"]] == [row.step for row in result.history]
    assert {item["group"] for item in read["after"]["rates"]} == {"a", "b"}
    assert [item["constraint"] for item in read["after"]["constraints"]] == ["equalized_odds", "accuracy_parity"]
    assert read["message"] == result.message


def test_the_optimizer_is_one_of_the_smaller_model() -> None:
    model, pruner = build(EqualOpportunity(tolerance=0.1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, betas=(0.8, 0.99), weight_decay=1e-4)
    result = fit(model, pruner, optimizer=optimizer)
    assert result.optimizer is optimizer
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.99)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    x, y, _ = TRAIN[0]
    before = model.fc1.weight.detach().clone()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert not torch.equal(model.fc1.weight, before)


@pytest.mark.parametrize("holds", ["the scheduler inside", "the optimizer", "the groups"])
def test_a_scheduler_of_any_form_goes_on_after_channels_were_removed(holds: str) -> None:
    """It may be no scheduler of torch's, and hold the optimizer where nobody looks for it."""

    class OfMyOwn:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.inner = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.9**n)
            self.held = optimizer.param_groups if holds == "the groups" else optimizer

        def step(self) -> None:
            if holds == "the scheduler inside":
                self.inner.step()
                return
            for group in self.held if isinstance(self.held, list) else self.held.param_groups:
                group["lr"] *= 0.9

    rates = []
    for early in (False, True):
        model, pruner = build(EqualOpportunity(tolerance=0.1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        result = fit(model, pruner, optimizer=optimizer, lr_scheduler=OfMyOwn(optimizer), remove_early=early)
        rates.append(result.optimizer.param_groups[0]["lr"])
        steps = pruner.engine.step_index
    assert rates[0] == rates[1] == pytest.approx(0.1 * 0.9**steps)


# ---- its arguments -----------------------------------------------------------------------------------------


class Recorder:
    """A loader that counts how often it was walked and what it gave."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.given = batches, 0

    def __iter__(self) -> Any:
        for batch in self.batches:
            self.given += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batches)


def test_the_mask_loader_feeds_mask_steps_and_only_those() -> None:
    mask_batches = biased(96, seed=5)
    seen: list[tuple[bool, bool]] = []
    model, pruner = build(None, bilevel={"joint": False, "warmup": 0.05, "ramp_end": 0.5})
    ids = {id(x) for x, _, _ in mask_batches}
    regularize = pruner.engine.after_backward
    current: list[bool] = []

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        current.append(id(x) in ids)
        return m(x)

    def spy(**options: Any) -> bool:
        mask_step = regularize(**options)
        seen.append((mask_step, current[-1]))
        return mask_step

    pruner.engine.after_backward = spy
    fit(model, pruner, mask_loader=mask_batches, forward=forward, validation=None)
    assert len(seen) == 64
    assert all(mask_step == from_mask_loader for mask_step, from_mask_loader in seen)
    assert sum(mask_step for mask_step, _ in seen) == 16  # every second step until half of the run


def test_the_scheduler_steps_once_per_training_step() -> None:
    model, pruner = build(None)
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    result = fit(model, pruner, optimizer=optimizer, lr_scheduler=scheduler)
    assert scheduler.last_epoch == 64
    assert result.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 65)


def test_iterative_rounds_share_the_run() -> None:
    model, pruner = build(EqualOpportunity(tolerance=0.2), iterative_steps=2, pruning_ratio=0.5)
    seen: list[int] = []
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    fit(
        model,
        pruner,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        validate_every=8,
        on_evaluation=lambda row: seen.append(model.fc1.out_features),
    )
    assert seen == [16, 16, 16, 12, 12, 12, 12, 12]  # the first round ends at step 32 of 64
    assert model.fc1.out_features == 8


def test_channels_that_go_as_soon_as_the_mask_is_final() -> None:
    """The run goes on with the smaller model, to the same end up to rounding."""
    results = []
    for early in (False, True):
        model, pruner = build(EqualOpportunity(tolerance=0.02), pruning_ratio=0.5)
        widths_seen: list[int] = []
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        result = fit(
            model,
            pruner,
            optimizer=optimizer,
            lr_scheduler=scheduler,
            validate_every=8,
            on_evaluation=lambda row, model=model, seen=widths_seen: seen.append(model.fc1.out_features),
            remove_early=early,
        )
        results.append((result, pruner, widths_seen))
    (late, _, at_the_end), (early_result, pruner, at_once) = results
    assert at_the_end == [16] * 8
    assert at_once == [16, 16, 16, 8, 8, 8, 8, 8]  # the mask is final after step 32 of 64
    assert early_result.passes == late.passes == 64
    for name, value in late.model.state_dict().items():
        torch.testing.assert_close(early_result.model.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    for row, other in zip(early_result.history, late.history, strict=True):
        assert (row.step, row.at_target, row.progress) == (other.step, other.at_target, other.progress)
        assert row.multipliers[0] == pytest.approx(other.multipliers[0], abs=1e-3)
    assert early_result.pruned.params == late.pruned.params < late.dense.params
    assert early_result.optimizer.param_groups[0]["lr"] == late.optimizer.param_groups[0]["lr"]
    with pytest.raises(TrainingStateError, match="all 64 planned training steps are done"):
        x, y, s = TRAIN[0]
        pruner.loss(early_result.model(x), y, s).backward()
        pruner.regularize(early_result.model)


def test_schedulers_made_of_schedulers_move_the_optimizer_of_the_smaller_model() -> None:
    """After a round of removal the parameters are new ones, and so is their optimizer."""
    model, pruner = build(None, iterative_steps=2)
    optimizer = SGD(model.parameters(), lr=0.1)
    schedules = torch.optim.lr_scheduler
    inner = schedules.SequentialLR(
        optimizer, [schedules.ConstantLR(optimizer, 1.0), schedules.ExponentialLR(optimizer, 0.9)], milestones=[16]
    )
    scheduler = schedules.ChainedScheduler([inner], optimizer)
    result = fit(model, pruner, optimizer=optimizer, lr_scheduler=scheduler)
    assert result.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**48)


@pytest.mark.parametrize(
    ("total_steps", "options", "message"),
    [
        (None, {"epochs": None}, "epochs"),
        (65, {"epochs": 8}, r"8 batches are 64 steps, but total_steps=65"),
        (None, {"epochs": 0}, "positive whole number"),
        (None, {"epochs": 2.5}, "positive whole number"),
        (None, {"train": iter(TRAIN)}, "has no length"),
        (None, {"validate_every": 0}, "validate_every"),
        (None, {"dual_every": 0}, "dual_every"),
    ],
    ids=["neither", "contradiction", "no-epoch", "fraction", "no-length", "validate_every", "dual_every"],
)
def test_the_length_of_a_run_must_be_clear(total_steps: int | None, options: dict[str, Any], message: str) -> None:
    model, pruner = build(None, total_steps=total_steps)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        fit(model, pruner, **options)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("options", [{"epochs": None}, {"epochs": 8}], ids=["total_steps", "both-agree"])
def test_total_steps_may_come_from_the_pruner(options: dict[str, Any]) -> None:
    model, pruner = build(None, total_steps=64)
    assert fit(model, pruner, **options).passes == 64


def test_without_a_constraint_s_is_not_needed() -> None:
    model, pruner = build(None)
    pairs: Any = [(x, y) for x, y, _ in TRAIN]
    result = fit(model, pruner, train=pairs, validation=[(x, y) for x, y, _ in VALIDATION])
    assert result.feasible
    assert result.message == "No constraint was asked for."
    assert result.after.verdicts == ()
    assert result.after.accuracy == pytest.approx(accuracy(model, VALIDATION))


def test_without_validation_the_training_data_judge() -> None:
    model, pruner = build(EqualOpportunity(tolerance=0.2))
    result = fit(model, pruner, validation=None)
    assert (result.before.split, result.after.split) == ("train", "train")
    assert result.history == []
    assert result.evaluation_passes == 2 * len(TRAIN)  # the pruned model with both sets of running statistics
    assert result.after.accuracy == pytest.approx(accuracy(model, TRAIN))
    assert "train" in result.message


@pytest.mark.parametrize(
    "constraint",
    [
        EqualOpportunity(tolerance=0.3, groups=3),
        EqualizedOdds(tolerance=0.3, groups=3, reference="overall"),
        DemographicParity(tolerance=0.3, groups=["x", "y", "z"], reference="y"),
        AccuracyParity(tolerance=0.3, groups=3),
    ],
    ids=lambda constraint: constraint.name,
)
def test_three_groups_and_four_classes(constraint: Constraint) -> None:
    train, validation = (biased(n, seed=n, groups=3, classes=4) for n in (384, 256))
    model, pruner = build(constraint, classes=4)
    result = fit(model, pruner, train=train, validation=validation)
    assert result.after.accuracy == pytest.approx(accuracy(model, validation))
    assert result.after.accuracy > 0.5
    assert {item.group for item in result.after.rates} == set(constraint.group_names)
    assert model.fc2.out_features == 8


def test_degradation_parity_compares_with_the_dense_model_of_each_split() -> None:
    model, pruner = build(DegradationParity(tolerance=0.1))
    # Trained first, as a dense model would be.
    optimizer = adam(model)
    for x, y, _ in TRAIN * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    dense = copy.deepcopy(model)
    result = fit(model, pruner, optimizer=optimizer)

    def by_group(m: nn.Module, batches: Batches) -> list[float]:
        x, y, s = (torch.cat(parts) for parts in zip(*batches, strict=True))
        right = (m.eval()(x).argmax(1) == y).float()
        return [float(right[s == group].mean()) for group in (0, 1)]

    rates = pruner.lagrangian.trackers[0].dense_rates
    assert rates["train"].reshape(-1).tolist() == pytest.approx(by_group(dense, TRAIN))
    assert rates["validation"].reshape(-1).tolist() == pytest.approx(by_group(dense, VALIDATION))
    drops = [a - b for a, b in zip(by_group(dense, VALIDATION), by_group(model, VALIDATION), strict=True)]
    assert result.after.verdicts[0].gap == pytest.approx(abs(drops[0] - drops[1]), abs=1e-6)


def test_batch_norm_statistics_are_recalibrated_only_for_the_better() -> None:
    model, pruner = build(None)
    kept = fit(model, pruner, recalibration_batches=0)
    twin, other = build(None)
    fresh = fit(twin, other, recalibration_batches=50)
    assert fresh.after.accuracy >= kept.after.accuracy
    assert model.bn1.momentum == twin.bn1.momentum == 0.1
    assert torch.equal(model.fc1.weight, twin.fc1.weight)


# ---- determinism and accidents -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shuffled", "plain"])
def test_the_same_seed_gives_the_same_model(kind: str) -> None:
    data = [sample for x, y, s in TRAIN for sample in zip(x, y, s, strict=True)]
    outcomes = []
    for _ in range(2):
        model, pruner = build(EqualOpportunity(tolerance=0.05), seed=4)
        generator = torch.Generator().manual_seed(11)
        loader: Any = torch.utils.data.DataLoader(data, batch_size=32, shuffle=kind == "shuffled", generator=generator)
        result = fit(model, pruner, train=loader)
        outcomes.append((copy.deepcopy(model.state_dict()), pruner.pruning_history(), result.history))
    first, second = outcomes
    assert first[1] == second[1]
    assert first[2] == second[2]
    assert all(torch.equal(first[0][key], second[0][key]) for key in first[0])


def test_other_data_give_other_masks() -> None:
    """Otherwise the test above would hold for a mask that never looks at anything."""
    histories = []
    for seed in (0, 8):
        model, pruner = build(None, seed=4)
        fit(model, pruner, train=biased(256, seed=seed))
        histories.append(str(pruner.pruning_history()))
    assert histories[0] != histories[1]


@pytest.mark.parametrize("when", [8, 40], ids=["while-the-ratio-rises", "at-the-target"])
def test_an_interrupted_run_can_be_continued(when: int) -> None:
    model, pruner = build(EqualOpportunity(tolerance=0.1))
    model.eval()
    optimizer = adam(model)

    def interrupt(row: HistoryRow) -> None:
        if row.step == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, pruner, optimizer=optimizer, validate_every=8, on_evaluation=interrupt)
    assert pruner.engine.step_index == when
    assert not model.training  # as it was before fit()
    assert not any(module.training for module in model.modules())
    assert list(stray_hooks(model)) == []
    assert torch.isfinite(model(example_of(model))).all()
    hidden = ~pruner.engine.weights.keep
    assert bool(hidden.any())

    result = fit(model, pruner, optimizer=optimizer)
    assert pruner.engine.step_index == 64
    assert result.passes == 64
    assert model.fc1.out_features == 8


def test_a_nan_batch_stops_the_run_and_leaves_a_good_model() -> None:
    model, pruner = build(EqualOpportunity(tolerance=0.1))
    states: list[dict[str, Tensor]] = []

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        if m.training and pruner.engine.step_index == 21:
            states.append(copy.deepcopy(m.state_dict()))
            x = x * torch.nan
        return m(x)

    with pytest.raises(NonFiniteError, match="training step 21") as raised:
        fit(model, pruner, forward=forward)
    assert "nan" in str(raised.value)
    for key, value in model.state_dict().items():
        if "num_batches_tracked" not in key:
            assert torch.isfinite(value).all(), key
            assert torch.equal(value, states[0][key]), key
    assert torch.isfinite(model(example_of(model))).all()


def test_a_learning_rate_that_explodes_stops_the_run() -> None:
    model, pruner = build(None)
    with pytest.raises(NonFiniteError, match=r"training step \d+"):
        fit(model, pruner, optimizer=SGD(model.parameters(), lr=1e30))


def test_a_second_fit_is_refused() -> None:
    model, pruner = build(None)
    result = fit(model, pruner)
    shapes = widths(model)
    with pytest.raises(TrainingStateError, match="already removed"):
        fit(model, pruner, optimizer=result.optimizer)
    assert widths(model) == shapes


def test_a_convolutional_network_with_macs_as_the_budget() -> None:
    torch.manual_seed(0)
    model = SmallCNN(width=16)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(128) % 2
    x = torch.randn(128, 3, 8, 8, generator=generator) + y[:, None, None, None]
    s = (torch.arange(128) // 2) % 2
    batches = [(x[i : i + 32], y[i : i + 32], s[i : i + 32]) for i in range(0, 128, 32)]
    pruner = BiFPPruner(
        model,
        example_of(model),
        pruning_ratio=0.6,
        target="macs",
        ignored_layers=[model.fc],
        constraint=DemographicParity(tolerance=0.1),
    )
    result = pruner.fit(batches, SGD(model.parameters(), lr=0.05), validation=list(batches), epochs=5, progress=False)
    assert result.pruned.macs == pytest.approx(0.4 * result.dense.macs, rel=0.02)


def test_validation_without_positives_in_a_group_warns() -> None:
    x, y, s = VALIDATION[0]
    validation = [(x, torch.where(s == 1, 0, y), s)]
    model, pruner = build(EqualOpportunity(tolerance=0.1))
    with pytest.warns(FairPruneWarning, match="validation data: .*undefined for group 1"):
        result = fit(model, pruner, validation=validation)
    assert not result.feasible  # an undefined gap is not a met one
    assert json.loads(result.to_json())["after"]["constraints"][0]["gap"] is None
