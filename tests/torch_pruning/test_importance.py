"""The criterion alone: against autograd through explicit masks, in the host's pruners, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch_pruning as tp
from host_networks import MLP, Batches, ResidualCNN, batches, images, prune_mlp, randomise, rows, sgd, train
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fairprune_plugin import AccuracyParity, DegradationParity, EqualOpportunity
from fairprune_plugin.errors import ConfigError, DataError
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.torch_pruning import BiFPImportance, BiFPPruner

FAIR = EqualOpportunity(tolerance=0.0)
OUT = tp.prune_conv_out_channels


class Mixed(nn.Module):
    """Every kind of reader: depthwise, grouped, transposed and behind a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.dw = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.b = nn.Conv2d(4, 8, 1)
        self.grouped = nn.Conv2d(8, 6, 1, groups=2)
        self.up = nn.ConvTranspose2d(6, 5, 3, padding=1)
        self.fc = nn.Linear(5 + 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.b(F.relu(self.dw(F.relu(self.a(x)))))
        x = F.relu(self.up(F.relu(self.grouped(F.relu(skip)))))
        out: Tensor = self.fc(torch.cat([x, skip], dim=1).mean((2, 3)))
        return out


class Flattened(nn.Module):
    """One convolution, read position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.sigmoid(self.a(x)).flatten(1))
        return out


Readers = list[tuple[str, Tensor]]  # weight, and the channel that each of its in-columns reads (−1: of another group)


def columns(channels: Tensor, dims: int = 2) -> Tensor:
    return channels.reshape(1, -1, *[1] * (dims - 2))


ALL_OF_8 = torch.arange(8)
BLOCKS = torch.stack([ALL_OF_8[:4]] * 3 + [ALL_OF_8[4:]] * 3).reshape(6, 4, 1, 1)  # the rows of each half read a half
# What is scored → (model, layer, number of channels, readers).
CASES: dict[str, tuple[Any, str, int, Readers]] = {
    "plain": (MLP, "a", 12, [("b.weight", columns(torch.arange(12)))]),
    "residual": (
        ResidualCNN,
        "stem",
        6,
        [("conv1.weight", columns(torch.arange(6), 4)), ("fc.weight", columns(torch.arange(6)))],
    ),
    "inside-a-block": (ResidualCNN, "conv1", 5, [("conv2.weight", columns(torch.arange(5), 4))]),
    "depthwise": (Mixed, "a", 4, [("b.weight", columns(torch.arange(4), 4))]),
    "grouped": (
        Mixed,
        "b",
        8,
        [("grouped.weight", BLOCKS), ("fc.weight", columns(torch.cat([torch.full((5,), -1), ALL_OF_8])))],
    ),
    "transposed": (Mixed, "grouped", 6, [("up.weight", torch.arange(6).reshape(-1, 1, 1, 1))]),
    "concatenated": (Mixed, "up", 5, [("fc.weight", columns(torch.cat([torch.arange(5), torch.full((8,), -1)])))]),
    "flattened": (Flattened, "a", 4, [("fc.weight", columns(torch.arange(4).repeat_interleave(16)))]),
}


def data_for(model: nn.Module, count: int = 3) -> Batches:
    return batches(count, image=not isinstance(model, MLP))


def full_group(model: nn.Module, layer: nn.Module) -> Any:
    """All channels of a layer's outputs as the host's pruning group."""
    example = rows() if isinstance(model, MLP) else images()
    graph = tp.DependencyGraph().build_dependency(model, example)
    size = graph.get_out_channels(layer)
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(range(size)))


def oracle(model: nn.Module, loader: Batches, size: int, readers: Readers, constraint: Any) -> Tensor:
    """Mean squared derivative by a mask that is multiplied on the readers' weights, ``(size,)``, by autograd."""
    model.eval()
    lagrangian, total = Lagrangian(constraint), torch.zeros(size)
    for x, y, s in loader:
        mask = torch.ones(size, requires_grad=True)
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for name, channel in readers:
            parameters[name] = parameters[name] * torch.cat([mask, torch.ones(1)])[channel]
        loss = lagrangian.loss(functional_call(model, parameters, (x,)), y, s)
        (derivative,) = torch.autograd.grad(loss, mask)
        total += derivative.square()
        for tracker in lagrangian.trackers:
            tracker.multipliers.set((tracker.strict_violation(tracker.counts, "train") > 0).float())
    return total / len(loader)


@pytest.mark.parametrize("constraint", [None, FAIR, [FAIR, AccuracyParity(tolerance=0.0)]], ids=["none", "one", "two"])
@pytest.mark.parametrize("case", CASES)
def test_saliency_equals_autograd_through_a_mask(case: str, constraint: Any) -> None:
    make, layer, size, readers = CASES[case]
    model = randomise(make())
    loader = data_for(model)
    group = full_group(model, getattr(model, layer))
    scores = BiFPImportance(model, loader, constraint=constraint)(group)
    assert scores is not None
    assert scores.shape == (len(group[0].idxs),)
    expected = oracle(model, loader, size, readers, constraint)
    assert (expected > 0).any()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-9)


def test_the_constraint_moves_the_scores() -> None:
    model = randomise(MLP())
    group = full_group(model, model.a)
    # The second group's inputs point the other way: its rates differ from the first batch on.
    loader = [(torch.where((s == 1)[:, None], -x, x), y, s) for x, y, s in data_for(model, 4)]
    optimizer = sgd(model)
    for x, y, _ in data_for(model, 20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    plain, fair, heavy = (
        BiFPImportance(model, loader, constraint=constraint, multiplier=multiplier)(group)
        for constraint, multiplier in ((None, 1.0), (FAIR, 1.0), (FAIR, 5.0))
    )
    met = BiFPImportance(model, loader, constraint=EqualOpportunity(tolerance=1.0))(group)
    assert not torch.allclose(plain, fair)
    assert not torch.allclose(fair, heavy)
    torch.testing.assert_close(plain, met)


def test_a_subset_of_channels_gets_its_own_scores() -> None:
    model = randomise(MLP())
    graph = tp.DependencyGraph().build_dependency(model, rows())
    importance = BiFPImportance(model, data_for(model))
    whole = importance(graph.get_pruning_group(model.a, tp.prune_linear_out_channels, list(range(12))))
    some = importance(graph.get_pruning_group(model.a, tp.prune_linear_out_channels, [7, 2, 5]))
    torch.testing.assert_close(some, whole[[7, 2, 5]])


def test_degradation_parity_alone_scores_by_the_task() -> None:
    """The dense model has not degraded: only the task loss is left, and no dense rates are asked for."""
    model = randomise(MLP())
    group = full_group(model, model.a)
    loader = data_for(model)
    alone = BiFPImportance(model, loader, constraint=DegradationParity(tolerance=0.0))(group)
    torch.testing.assert_close(alone, BiFPImportance(model, loader)(group))
    both = BiFPImportance(model, loader, constraint=[DegradationParity(tolerance=0.0), FAIR])(group)
    torch.testing.assert_close(both, BiFPImportance(model, loader, constraint=FAIR)(group))


def test_without_a_constraint_no_groups_are_needed() -> None:
    model = randomise(MLP())
    group = full_group(model, model.a)
    loader = data_for(model)
    torch.testing.assert_close(
        BiFPImportance(model, [(x, y) for x, y, _ in loader])(group), BiFPImportance(model, loader)(group)
    )


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_max_batches_is_one_at_least(count: Any) -> None:
    with pytest.raises(ConfigError, match="max_batches"):
        BiFPImportance(nn.Linear(3, 2), [], max_batches=count)


def test_max_batches() -> None:
    model = randomise(MLP())
    group = full_group(model, model.a)
    loader = data_for(model, 6)
    torch.testing.assert_close(
        BiFPImportance(model, loader, max_batches=2)(group), BiFPImportance(model, loader[:2])(group)
    )


def test_a_task_loss_and_a_forward_of_ones_own() -> None:
    model = randomise(MLP())
    group = full_group(model, model.a)
    loader = data_for(model)
    own = BiFPImportance(model, loader, task_loss=lambda out, y: 3 * F.cross_entropy(out, y))(group)
    torch.testing.assert_close(own, 9 * BiFPImportance(model, loader)(group))
    wrapped = BiFPImportance(
        model, [({"x": x}, y, s) for x, y, s in loader], forward=lambda model, inputs: model(inputs["x"])
    )
    torch.testing.assert_close(wrapped(group), BiFPImportance(model, loader)(group))


# ---- in the host's pruners -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pruner_class", [tp.pruner.BasePruner, tp.pruner.GroupNormPruner], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize("global_pruning", [False, True], ids=["local", "global"])
def test_the_hosts_pruners_keep_the_most_salient_channels(pruner_class: Any, global_pruning: bool) -> None:
    model = randomise(ResidualCNN(width=8))
    loader = data_for(model)
    scores = oracle(model, loader, 5, [("conv2.weight", columns(torch.arange(5), 4))], FAIR)
    kept = scores.topk(3).indices.sort().values
    biases, filters = model.bn1.bias.detach().clone(), model.conv1.weight.detach().clone()
    pruner = pruner_class(
        model,
        images(),
        importance=BiFPImportance(model, loader, constraint=FAIR),
        pruning_ratio=0.4,
        global_pruning=global_pruning,
        ignored_layers=[model.fc, model.stem] if global_pruning else [model.fc],
    )
    pruner.step()
    torch.testing.assert_close(model.bn1.bias, biases[kept])
    if global_pruning:  # the stem stays: nothing but rows has gone
        torch.testing.assert_close(model.conv1.weight, filters[kept])
    assert model(images()).shape == (2, 2)


class CountingLoader:
    """Batches, and how often they were walked through."""

    def __init__(self, data: Batches) -> None:
        self.data, self.walks = data, 0

    def __iter__(self) -> Iterator[Any]:
        self.walks += 1
        return iter(self.data)


def test_iterative_pruning_measures_the_smaller_model_again() -> None:
    model = randomise(MLP())
    loader = CountingLoader(data_for(model))
    importance = BiFPImportance(model, loader, constraint=FAIR)
    pruner = tp.pruner.BasePruner(
        model, rows(), importance=importance, pruning_ratio=0.5, iterative_steps=2, ignored_layers=[model.fc]
    )
    pruner.step()
    assert loader.walks == 1, "one calibration serves all groups of a step"
    assert model.a.out_features == 9
    pruner.step()
    assert loader.walks == 2
    assert model.a.out_features == 6
    scores = importance(full_group(model, model.a))
    expected = oracle(model, loader.data, 6, [("b.weight", columns(torch.arange(6)))], FAIR)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-9)


def test_training_in_between_is_measured_again() -> None:
    """Widths alone do not tell: weights that have moved have other saliencies."""
    model = randomise(MLP())
    loader = CountingLoader(data_for(model))
    importance, group = BiFPImportance(model, loader), full_group(model, model.a)
    before = importance(group)
    torch.testing.assert_close(importance(group), before)
    assert loader.walks == 1
    optimizer = sgd(model)
    for x, y, _ in loader.data:
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    expected = oracle(model, loader.data, 12, [("b.weight", columns(torch.arange(12)))], None)
    torch.testing.assert_close(importance(group), expected, rtol=1e-4, atol=1e-9)
    assert not torch.allclose(before, expected)


# ---- learned scores --------------------------------------------------------------------------------------------


def test_learned_scores_are_those_of_the_run() -> None:
    model = randomise(MLP())
    pruner = prune_mlp(model, constraint=FAIR)
    importance = BiFPImportance(run=pruner)
    graph = tp.DependencyGraph().build_dependency(model, rows())
    train(pruner, model, sgd(model), batches(6))
    learned = pruner.engine.scores.value()
    names = [group.channels.name for group in pruner.host_groups]
    for name in ("a", "b"):
        layer = getattr(model, name)
        expected = learned[pruner.engine.weights.of(names.index(name))]
        group = graph.get_pruning_group(layer, tp.prune_linear_out_channels, list(range(layer.out_features)))
        torch.testing.assert_close(importance(group), expected)
        some = graph.get_pruning_group(layer, tp.prune_linear_out_channels, [5, 0, 3])
        torch.testing.assert_close(importance(some), expected[[5, 0, 3]])
        torch.testing.assert_close(pruner.estimate_importance(group), expected)


def test_learned_scores_of_tied_channels() -> None:
    """Channels that leave together have one score; another root of the same group asks for it as well."""
    model = randomise(ResidualCNN())
    pruner = BiFPPruner(model, images(), ignored_layers=[model.fc], total_steps=10)
    train(pruner, model, sgd(model), batches(4, image=True))
    importance = BiFPImportance(run=pruner)
    graph = tp.DependencyGraph().build_dependency(model, images())
    first = importance(graph.get_pruning_group(model.stem, OUT, list(range(6))))
    second = importance(graph.get_pruning_group(model.conv2, OUT, list(range(6))))
    assert first is not None
    torch.testing.assert_close(first, second)


def test_a_run_knows_nothing_of_other_groups() -> None:
    model = MLP()
    importance = BiFPImportance(run=prune_mlp(model))
    graph = tp.DependencyGraph().build_dependency(model, rows())
    assert importance(graph.get_pruning_group(model.fc, tp.prune_linear_out_channels, [0, 1])) is None


# ---- what it leaves behind, and what it refuses -----------------------------------------------------------------


@pytest.mark.parametrize("good", [True, False], ids=["good-data", "bad-data"])
def test_the_model_is_left_undisturbed(good: bool) -> None:
    model = randomise(MLP())
    model.train()
    model.bn.eval()
    model.b.weight.requires_grad_(False)
    model.a.weight.grad = torch.full_like(model.a.weight, 3.0)
    group = full_group(model, model.a)
    model.train()
    model.bn.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradient, identity = model.a.weight.grad, [id(p) for p in model.parameters()]
    loader = data_for(model)
    if not good:
        loader[1] = (loader[1][0], loader[1][1] + 5, loader[1][2])
    importance = BiFPImportance(model, loader, constraint=FAIR)
    with torch.no_grad():  # pruning is often done under no_grad
        if good:
            assert importance(group) is not None
        else:
            with pytest.raises(DataError, match="targets"):
                importance(group)
    assert [module.training for module in model.modules()] == modes
    assert [id(p) for p in model.parameters()] == identity
    assert [p.requires_grad for p in model.parameters()] == [name != "b.weight" for name, _ in model.named_parameters()]
    assert model.a.weight.grad is gradient
    assert bool((gradient == 3.0).all())
    assert all(p.grad is None for p in model.parameters() if p is not model.a.weight)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_readers_are_scored() -> None:
    model = randomise(MLP())
    group = full_group(model, model.a)
    loader = data_for(model)
    free = BiFPImportance(model, loader)(group)
    model.b.requires_grad_(False)
    torch.testing.assert_close(BiFPImportance(model, loader)(group), free)


@pytest.mark.parametrize("given", ["nothing", "model", "loader", "everything"])
def test_either_a_run_or_a_model_with_a_loader(given: str) -> None:
    model = MLP()
    arguments: dict[str, Any] = {
        "nothing": {},
        "model": {"model": model},
        "loader": {"loader": batches(1)},
        "everything": {"model": model, "loader": batches(1), "run": prune_mlp(model)},
    }[given]
    with pytest.raises(ConfigError, match=r"either run=pruner .* or a model and a calibration loader"):
        BiFPImportance(**arguments)


def test_an_empty_loader() -> None:
    model = MLP()
    with pytest.raises(DataError, match="calibration loader of BiFPImportance is empty"):
        BiFPImportance(model, [])(full_group(model, model.a))


def test_batches_without_samples_do_not_count() -> None:
    model = randomise(MLP())
    group, loader = full_group(model, model.a), data_for(model)
    empty = tuple(part[:0] for part in loader[0])
    expected = BiFPImportance(model, loader, max_batches=len(loader))(group)
    got = BiFPImportance(model, [empty, *loader, empty], max_batches=len(loader))(group)
    assert torch.equal(got, expected)


def test_a_constraint_needs_the_groups() -> None:
    model = MLP()
    with pytest.raises(DataError, match="needs the sensitive attribute"):
        BiFPImportance(model, [(x, y) for x, y, _ in batches(1)], constraint=FAIR)(full_group(model, model.a))
