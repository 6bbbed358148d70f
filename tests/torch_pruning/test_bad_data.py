"""Issue 2, "Bad input", over a whole run: loaders, groups that never appear, numbers that are none, foreign optimizers.

What a single call refuses is in ``test_bad_arguments.py``, ``test_bad_batches.py`` and ``test_order_of_the_loop.py``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from host_networks import MLP, Batches, batches, prune_mlp, rows, sgd, train
from torch import Tensor, nn

from fairprune_plugin import DegradationParity, EqualOpportunity, FairPruneWarning
from fairprune_plugin.errors import ConfigError, DataError, NonFiniteError, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner

FAIR = EqualOpportunity(tolerance=0.02)


@pytest.fixture
def model() -> MLP:
    return MLP()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.isfinite(tensor.double()).all(), name
        assert torch.equal(tensor, before[name]), name


# ---- loaders ---------------------------------------------------------------------------------------------------


def once(data: Batches) -> Iterator[Any]:
    yield from data


def fit(model: MLP, pruner: BiFPPruner, **loaders: Any) -> Any:
    given = {"train": batches(4), "validation": batches(2), "mask": batches(2), **loaders}
    return pruner.fit(
        given["train"], sgd(model), validation=given["validation"], mask_loader=given["mask"], progress=False
    )


@pytest.mark.parametrize("constraint", [FAIR, None], ids=["constrained", "plain"])
@pytest.mark.parametrize("which", ["train", "mask"])
def test_a_generator_that_runs_out_is_named(model: MLP, which: str, constraint: Any) -> None:
    pruner = prune_mlp(model, bilevel={"joint": False}, constraint=constraint, total_steps=40)
    with pytest.raises(DataError, match=rf"the {which} loader .*not a generator"):
        fit(model, pruner, **{which: once(batches(4))})


@pytest.mark.parametrize("constraint", [FAIR, None], ids=["constrained", "plain"])
def test_a_generator_of_validation_batches_is_refused_before_training(model: MLP, constraint: Any) -> None:
    pruner, before = prune_mlp(model, bilevel={"joint": False}, constraint=constraint), state(model)
    with pytest.raises(DataError, match="the validation loader"):
        fit(model, pruner, validation=once(batches(30)))
    assert pruner.engine.step_index == 0
    assert_unchanged(model, before)


@pytest.mark.parametrize("constraint", [FAIR, None], ids=["constrained", "plain"])
@pytest.mark.parametrize("which", ["train", "validation", "mask"])
def test_an_empty_loader_is_refused_before_training(model: MLP, which: str, constraint: Any) -> None:
    pruner, before = prune_mlp(model, bilevel={"joint": False}, constraint=constraint), state(model)
    with pytest.raises(DataError, match=rf"the {which} loader .*(empty|no batch)"):
        fit(model, pruner, **{which: []})
    assert pruner.engine.step_index == 0
    assert_unchanged(model, before)


@pytest.mark.parametrize("which", ["train", "validation"])
def test_batches_without_groups_are_refused(model: MLP, which: str) -> None:
    pruner, before = prune_mlp(model, bilevel={"joint": False}, constraint=FAIR), state(model)
    with pytest.raises(DataError, match=rf"the {which} loader yields \(x, y\) but the constraint needs \(x, y, s\)"):
        fit(model, pruner, **{which: [(x, y) for x, y, _ in batches(4)]})
    assert_unchanged(model, before)


def test_mask_batches_need_mask_steps_of_their_own(model: MLP) -> None:
    pruner, before = prune_mlp(model, constraint=FAIR), state(model)
    with pytest.raises(ConfigError, match=r"mask_loader .*'joint': False"):
        fit(model, pruner)
    assert_unchanged(model, before)


def test_an_optimizer_of_another_model_is_refused(model: MLP) -> None:
    pruner, before = prune_mlp(model, constraint=FAIR), state(model)
    with pytest.raises(ConfigError, match=r"optimizer holds none of this model's parameters.*model\.parameters\(\)"):
        pruner.fit(batches(10), sgd(MLP()), progress=False)
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", ["validate_every", "dual_every"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True], ids=repr)
def test_intervals_are_whole_numbers_of_steps(model: MLP, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} as a positive whole number of steps"):
        prune_mlp(model).fit(batches(10), sgd(model), progress=False, **{name: value})


def test_degradation_parity_needs_the_dense_rates(model: MLP) -> None:
    pruner = prune_mlp(model, constraint=DegradationParity(tolerance=0.02))
    x, y, s = batches(1)[0]
    with pytest.raises(
        TrainingStateError, match=r"call pruner\.measure_dense\(loader, split='train'\) before training"
    ):
        pruner.loss(model(x), y, s)
    pruner.measure_dense(batches(2))
    assert torch.isfinite(pruner.loss(model(x), y, s))


# ---- groups that a loop of the user's own never shows ------------------------------------------------------------


def one_group(data: Batches) -> Batches:
    return [(x, y, torch.zeros_like(s)) for x, y, s in data]


def without_positives(data: Batches) -> Batches:
    return [(x, torch.where(s == 1, 0, y), s) for x, y, s in data]


@pytest.mark.parametrize("spoil", [one_group, without_positives], ids=["one-group", "no-positives"])
def test_an_own_loop_warns_once_after_twenty_batches(model: MLP, spoil: Callable[[Batches], Batches]) -> None:
    pruner, data = prune_mlp(model, constraint=FAIR, total_steps=50), spoil(batches(45))
    train(pruner, model, sgd(model), data[:19])  # warnings are errors
    with pytest.warns(FairPruneWarning, match="after 20 batches .* of group 1: nothing constrains them") as caught:
        train(pruner, model, sgd(model), data[19:])
    assert len(caught) == 1
    assert caught[0].filename == train.__code__.co_filename, "the warning points at the user's loss() line"


def test_groups_that_are_all_there_warn_of_nothing(model: MLP) -> None:
    train(prune_mlp(model, constraint=FAIR, total_steps=30), model, sgd(model), batches(25))


def test_warnings_of_construction_point_at_the_users_line(model: MLP) -> None:
    model.b.requires_grad_(False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BiFPPruner(model, rows(), total_steps=10)
    ours = [warning for warning in caught if issubclass(warning.category, FairPruneWarning)]
    assert len(ours) == 2, "frozen parameters, and an output that was not ignored"
    assert {warning.filename for warning in ours} == {__file__}


# ---- numbers that are none -----------------------------------------------------------------------------------------


def with_nan(data: Batches, at: int) -> Batches:
    x, y, s = data[at]
    return [*data[:at], (torch.full_like(x, math.nan), y, s), *data[at + 1 :]]


@pytest.mark.parametrize("constraint", [FAIR, None], ids=["constrained", "plain"])
def test_a_nan_loss_leaves_everything_as_it_was(model: MLP, constraint: Any) -> None:
    pruner, optimizer, data = (
        prune_mlp(model, bilevel={"joint": False}, constraint=constraint),
        sgd(model),
        with_nan(batches(6), 4),
    )
    train(pruner, model, optimizer, data[:4])
    before, keep, scores = state(model), pruner.engine.weights.keep.clone(), pruner.engine.scores.value().clone()
    with pytest.raises(NonFiniteError, match=r"loss became nan at training step 4: .*lower the learning rate"):
        train(pruner, model, optimizer, data[4:])
    assert_unchanged(model, before)
    assert torch.equal(keep, pruner.engine.weights.keep)
    assert torch.equal(scores, pruner.engine.scores.value())
    train(pruner, model, optimizer, data[5:])  # the run can go on
    assert pruner.engine.step_index == 5


@pytest.mark.parametrize("validation", [True, False], ids=["validation", "train-only"])
def test_fit_stops_at_a_nan_loss_and_names_the_step(model: MLP, validation: bool) -> None:
    pruner = prune_mlp(model, constraint=FAIR)
    with pytest.raises(NonFiniteError, match="at training step 6"):
        pruner.fit(with_nan(batches(10), 6), sgd(model), validation=batches(2) if validation else None, progress=False)
    assert all(bool(torch.isfinite(tensor.double()).all()) for tensor in model.state_dict().values())


class InfiniteSlope(torch.autograd.Function):
    """The identity, with an infinite derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, math.inf)


@pytest.mark.parametrize("step", [0, 1, 2, 3], ids=lambda step: f"step-{step}")  # weight and mask steps
def test_an_infinite_gradient_of_a_finite_loss(model: MLP, step: int) -> None:
    pruner, optimizer = prune_mlp(model, constraint=FAIR), sgd(model)
    train(pruner, model, optimizer, batches(step))
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    scores, keep = pruner.engine.scores.value().clone(), pruner.engine.weights.keep.clone()
    x, y, s = batches(1)[0]
    optimizer.zero_grad()
    InfiniteSlope.apply(pruner.loss(model(x), y, s)).backward()
    with pytest.raises(
        NonFiniteError, match=f"gradient became NaN or infinite at training step {step} .*clip gradients"
    ):
        pruner.regularize(model)
    optimizer.step()  # even by a user who swallows the error
    assert torch.equal(scores, pruner.engine.scores.value())
    assert torch.equal(keep, pruner.engine.weights.keep)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name]), name
