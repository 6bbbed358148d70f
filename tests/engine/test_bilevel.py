"""The engine on a hand-made network: weight steps, mask steps, bad losses, resuming."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from fairprune_plugin.engine.bilevel import BiLevelEngine
from fairprune_plugin.engine.config import BiLevelConfig
from fairprune_plugin.engine.scores import MaskScores
from fairprune_plugin.engine.timetable import Timetable
from fairprune_plugin.errors import NonFiniteError, TrainingStateError
from fairprune_plugin.fairness.constraints import EqualOpportunity
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.masks.allocation import GroupLimits, RankingScope, keep_by_channels
from fairprune_plugin.masks.masked_weights import MaskedWeights
from fairprune_plugin.masks.saliency import group_magnitude, mask_gradient
from toy_networks import Chain

LIMITS = [GroupLimits(slice(0, 6), 1), GroupLimits(slice(6, 11), 1)]
SCOPES = [RankingScope((0,), 0.5, 6), RankingScope((1,), 0.4, 5)]


def project(scores: Tensor, progress: float) -> Tensor:
    return keep_by_channels(scores, LIMITS, SCOPES, progress)


def engine_of(model: Chain, steps: int | None = 12, **options: object) -> BiLevelEngine:
    config = BiLevelConfig(**{"warmup": 0.0, "ramp_end": 0.5, **options})  # type: ignore[arg-type]
    weights = MaskedWeights(model.groups())
    scores = MaskScores(group_magnitude(weights), config)
    engine = BiLevelEngine(model, weights, Lagrangian(EqualOpportunity(0.01)), project, config, scores)
    if steps is not None:
        engine.timetable = Timetable(config, steps, ratio=0.5)
    return engine


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(16, 4), torch.randint(2, (16,)), torch.randint(2, (16,))


def backward(engine: BiLevelEngine) -> None:
    x, y, s = batch()
    engine.model.zero_grad()
    engine.loss(engine.model(x), y, s).backward()


def train_step(engine: BiLevelEngine, optimizer: torch.optim.Optimizer) -> bool:
    backward(engine)
    mask_step = engine.after_backward()
    optimizer.step()
    engine.after_optimizer_step()
    return mask_step


def state_of(model: Chain) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def sgd(model: Chain) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def test_a_weight_step_moves_weights_and_not_the_mask() -> None:
    model = Chain()
    engine = engine_of(model, joint=False)
    engine.set_mask(torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0]).bool())
    before = state_of(model)
    optimizer = sgd(model)
    backward(engine)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert engine.after_backward() is False
    assert (model.b.weight.grad[:, 2] == 0).all()
    assert torch.equal(model.b.weight.grad[:, 0], gradients["b.weight"][:, 0])
    assert engine.scores.updates == 0
    optimizer.step()
    engine.after_optimizer_step()
    assert engine.weights.keep.tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0]
    assert not torch.equal(model.b.weight, before["b.weight"])
    assert (model.c.weight[:, 4] == 0).all()
    assert torch.equal(model.a.weight[2], before["a.weight"][2])


def test_a_mask_step_moves_the_mask_and_not_the_weights() -> None:
    model = Chain()
    engine, optimizer = engine_of(model, joint=False, prior=0.0, schedule="constant"), sgd(model)
    assert train_step(engine, optimizer) is False  # momentum is there now
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    backward(engine)
    derivative = mask_gradient(engine.weights, inverse_gamma=engine.config.inverse_gamma)
    assert engine.after_backward() is True
    assert all(p.grad is None for p in model.parameters()), "optimizers skip parameters without a gradient"
    optimizer.step()
    engine.after_optimizer_step()
    torch.testing.assert_close(engine.scores.value(), derivative.square())
    assert torch.equal(engine.weights.keep, project(derivative.square(), 1.0))
    assert int(engine.weights.keep.sum()) == 3 + 3
    full = {id(p.parameter): p.full_values() for p in engine.weights.parameters}
    for name, parameter in model.named_parameters():
        assert torch.equal(full.get(id(parameter), parameter), before[name]), name


def test_a_joint_step_moves_both() -> None:
    model = Chain()
    engine, optimizer = engine_of(model, schedule="constant"), sgd(model)
    before = model.a.weight.detach().clone()
    assert train_step(engine, optimizer) is True
    hidden = ~engine.weights.keep[:6]
    assert int(hidden.sum()) == 3
    assert torch.equal(model.a.weight[hidden], before[hidden])
    assert not torch.equal(model.a.weight[~hidden], before[~hidden])
    assert (model.b.weight[:, hidden] == 0).all()


@pytest.mark.parametrize(("joint", "ramp"), [(False, [False, True] * 3), (True, [True] * 6)])
def test_a_whole_run_reaches_the_target_and_freezes_the_mask(joint: bool, ramp: list[bool]) -> None:
    model = Chain()
    engine, optimizer = engine_of(model, steps=12, joint=joint), sgd(model)
    kinds, masks, at_target = [], [], []
    while not engine.finished:
        kinds.append(train_step(engine, optimizer))
        masks.append(engine.weights.keep.clone())
        at_target.append(engine.at_target)
    assert kinds == ramp + [False] * 6
    assert at_target == [False] * 5 + [True] * 7
    assert engine.progress() == 1
    assert engine.passes == engine.step_index == 12
    assert all(torch.equal(mask, masks[5]) for mask in masks[5:])
    assert (int(masks[-1][:6].sum()), int(masks[-1][6:].sum())) == (3, 3)
    assert len(model.ln._forward_hooks) == 1
    small = model.eval().sliced(engine.weights.keep)
    x = torch.randn(8, 4)
    torch.testing.assert_close(model(x), small(x))


def test_calls_out_of_order_are_refused() -> None:
    engine = engine_of(Chain())
    with pytest.raises(TrainingStateError, match="needs fresh gradients"):
        engine.after_backward()
    x, y, s = batch()
    loss = engine.loss(engine.model(x), y, s)
    with pytest.raises(TrainingStateError, match=r"before backward\(\)"):
        engine.after_backward()
    loss.backward()
    engine.after_backward()
    with pytest.raises(TrainingStateError, match="needs fresh gradients"):
        engine.after_backward()


def test_a_run_of_unknown_length_is_refused_before_the_first_step() -> None:
    engine = engine_of(Chain(), steps=None)
    x, y, s = batch()
    with pytest.raises(TrainingStateError, match="total_steps"):
        engine.loss(engine.model(x), y, s)
    assert not engine.finished
    assert not engine.at_target


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_a_bad_batch_leaves_everything_as_it_was(bad: float) -> None:
    model = Chain()
    engine, optimizer = engine_of(model), sgd(model)
    for _ in range(3):
        train_step(engine, optimizer)
    before, keep = state_of(model), engine.weights.keep.clone()
    x, y, s = batch()
    x[0, 0] = bad
    with pytest.raises(NonFiniteError, match="training step 3"):
        engine.loss(model(x), y, s)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(engine.weights.keep, keep)
    with pytest.raises(TrainingStateError):
        engine.after_backward()
    train_step(engine, optimizer)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("stop", [3, 4, 8], ids=["in-the-ramp", "after-a-mask-step", "settling"])
def test_a_resumed_run_continues_identically(stop: int) -> None:
    model = Chain()
    engine, optimizer = engine_of(model), sgd(model)
    for _ in range(stop):
        train_step(engine, optimizer)
    # The copy shares nothing: model, optimizer and engine are new and only states travel.
    other = Chain()
    resumed, again = engine_of(other), sgd(other)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed.load_state_dict(copy.deepcopy(engine.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    random = torch.get_rng_state()
    for subject, opt in ((engine, optimizer), (resumed, again)):
        torch.set_rng_state(random)
        while not subject.finished:
            train_step(subject, opt)
    assert torch.equal(engine.weights.keep, resumed.weights.keep)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_an_engine_that_has_moved_on_can_go_back() -> None:
    """Back to a checkpoint in the same process, with another mask installed meanwhile."""
    model = Chain()
    engine = engine_of(model)
    engine.set_mask(torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]).bool())
    saved_model, saved = copy.deepcopy(model.state_dict()), copy.deepcopy(engine.state_dict())
    engine.set_mask(torch.tensor([1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]).bool())
    with torch.no_grad():
        model.b.weight.mul_(2)
        engine.weights.parameters[0].held.mul_(2)
    model.load_state_dict(saved_model)
    engine.load_state_dict(saved)
    assert all(torch.equal(tensor, saved_model[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("joint", [False, True])
def test_what_is_hidden_for_good_needs_nothing_held_aside(joint: bool) -> None:
    """Where the rows of hidden channels drift to is nothing to the weights that stay."""
    runs = []
    for final in (True, False):
        torch.manual_seed(0)
        model = Chain()
        engine, optimizer = engine_of(model, joint=joint), sgd(model)
        engine.final_after_ramp = final
        while not engine.finished:
            train_step(engine, optimizer)
        held = [parameter.held is not None for parameter in engine.weights.parameters]
        assert any(held) is not final
        runs.append((engine, model))
    (engine, model), (other, expected) = runs
    keep = engine.weights.keep
    assert torch.equal(keep, other.weights.keep)
    assert not bool(keep.all())
    small, large = model.sliced(keep), expected.sliced(keep)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), large.parameters(), strict=True))
