"""``BiFPImportance`` as ``importance=`` of Torch-Pruning's own pruners."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from driving import SGD, Batches, SmallCNN, SmallMLP, batches_for, drive, example_of
from fairprune_plugin import DegradationParity, EqualOpportunity
from fairprune_plugin.errors import ConfigError, DataError
from fairprune_plugin.torch_pruning import BiFPImportance, BiFPPruner
from zoo import CASES, Case, randomise

pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")

EXACT = [case for case in CASES if case.exact]
# No grouped convolutions (a channel of theirs is not a unit), no heads, logits of one row per sample.
PLAIN = [
    case
    for case in EXACT
    if case.name
    in {
        "resnet-basic",
        "resnet-bottleneck",
        "mobilenetv2",
        "densenet",
        "vgg-bn-flatten",
        "efficientnet-se",
        "mlp-layernorm",
        "mlp-bn-affine",
        "conv1d",
        "hf-vit-ffn",
        "hf-bert-ffn",
    }
]


def names(case: Case) -> str:
    return case.name


def loader_of(case: Case, classes: int, batches: int = 3) -> list[Any]:
    """The case's own inputs, reordered, with made-up labels and groups."""
    out = []
    for seed in range(batches):
        x = case.inputs()
        size = len(x["input_ids"]) if isinstance(x, dict) else len(x)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        x = {key: value[order] for key, value in x.items()} if isinstance(x, dict) else x[order]
        out.append((x, torch.arange(size) % classes, torch.arange(size) // 2 % 2))
    return out


def logits_of(case: Case) -> Any:
    def forward(model: nn.Module, x: Any) -> Tensor:
        out = case.logits(model(**x) if isinstance(x, dict) else model(x))
        return out.flatten(2).mean(2) if out.dim() > 2 else out

    return forward


def host(case: Case, model: nn.Module, importance: Any, cls: Any = tp.pruner.BasePruner, **options: Any) -> Any:
    needed = {"pruning_ratio": 0.5, "ignored_layers": case.ignored(model), **case.pruner_kwargs(model)}
    return cls(model, case.inputs(), importance, **{**needed, **options})


def scaled_by(channels: Tensor) -> Any:
    """A pre-hook that multiplies what a layer reads."""

    def hook(module: nn.Module, args: Any) -> Any:
        shape = [-1] if isinstance(module, nn.Linear) else [-1] + [1] * (args[0].dim() - 2)
        return (args[0] * channels.reshape(shape), *args[1:])

    return hook


def oracle(case: Case, model: nn.Module, group: Any, loader: list[Any]) -> Tensor:
    """(dL/dm)² by autograd: an explicit mask multiplies what every consumer reads."""
    position = {channel: i for i, channel in enumerate(group[0].idxs)}
    squares = torch.zeros(len(position))
    for x, y, _ in loader:
        mask = torch.ones(len(position), requires_grad=True)
        handles = []
        for i in range(len(group)):
            layer, dep = group[i].dep.target.module, group[i].dep
            if not isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d):
                continue
            if group._DG.is_out_channel_pruning_fn(dep.handler) or getattr(layer, "groups", 1) > 1:
                continue
            columns = torch.tensor(group[i].idxs)
            rows = torch.tensor([position[root] for root in group[i].root_idxs])

            width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            full = torch.ones(width).index_put((columns,), mask[rows])
            handles.append(layer.register_forward_pre_hook(scaled_by(full)))
        model.eval()
        loss = nn.functional.cross_entropy(logits_of(case)(model, x), y)
        (gradient,) = torch.autograd.grad(loss, mask)
        squares += gradient.square()
        for handle in handles:
            handle.remove()
    return squares / len(loader)


@pytest.mark.parametrize("case", PLAIN, ids=names)
def test_the_saliency_is_that_of_an_explicit_mask(case: Case) -> None:
    model = randomise(case.build())
    classes = logits_of(case)(model.eval(), case.inputs()).shape[1]
    loader = loader_of(case, classes)
    importance = BiFPImportance(model, loader, forward=logits_of(case))
    pruner = host(case, model, importance)
    compared = 0
    for group in pruner.DG.get_all_groups(
        ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
    ):
        ours, theirs = importance(group), oracle(case, model, group, loader)
        assert ours.shape == (len(group[0].idxs),)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6 * float(theirs.max()))
        compared += int(theirs.max() > 0)
    assert compared > 0


@pytest.mark.parametrize("cls", [tp.pruner.BasePruner, tp.pruner.GroupNormPruner], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("case", EXACT, ids=names)
def test_any_pruner_of_the_host_takes_it(case: Case, cls: Any) -> None:
    model = randomise(case.build())
    classes = logits_of(case)(model.eval(), case.inputs()).shape[1]
    model.train()
    dense = sum(p.numel() for p in model.parameters())
    constraint = EqualOpportunity(tolerance=0.0, positive=1)
    importance = BiFPImportance(model, loader_of(case, classes), constraint=constraint, forward=logits_of(case))
    host(case, model, importance, cls).step()
    assert sum(p.numel() for p in model.parameters()) < dense
    assert torch.isfinite(case.forward(model)).all()


def test_the_model_is_left_as_it_was() -> None:
    model = randomise(SmallCNN())
    model.train()
    model.bn1.eval()
    model.conv3.requires_grad_(False)
    model.conv1.weight.grad = torch.full_like(model.conv1.weight, 3.0)
    state, training = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    loader = batches_for(model, 3)
    importance = BiFPImportance(model, loader, constraint=EqualOpportunity(tolerance=0.0))
    with torch.no_grad():  # Torch-Pruning ranks under no_grad
        importance.calibrate()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == training
    assert [p.requires_grad for p in model.conv3.parameters()] == [False, False]
    assert all(p.requires_grad for p in model.conv1.parameters())
    assert torch.equal(model.conv1.weight.grad, torch.full_like(model.conv1.weight, 3.0))
    assert model.conv2.weight.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


def group_of(model: nn.Module, layer: nn.Linear) -> Any:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example_of(model))
    return graph.get_pruning_group(layer, tp.prune_linear_out_channels, list(range(layer.out_features)))


def test_the_constraint_moves_the_saliency() -> None:
    model = SmallMLP()
    # Group 1's positives look like negatives, so that the rates differ from the first batch on.
    loader = [(torch.where((s == 1)[:, None], -x, x), y, s) for x, y, s in batches_for(model, 6)]
    optimizer = SGD(model.parameters(), lr=0.1)
    for x, y, _ in batches_for(model, 30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    group = group_of(model, model.fc2)
    plain = BiFPImportance(model, loader)(group)
    fair = BiFPImportance(model, loader, constraint=EqualOpportunity(tolerance=0.0))(group)
    free = BiFPImportance(model, loader, constraint=EqualOpportunity(tolerance=1.0))(group)
    strong = BiFPImportance(model, loader, constraint=EqualOpportunity(tolerance=0.0), multiplier=5.0)(group)
    assert torch.allclose(plain, free)
    assert not torch.allclose(plain, fair, rtol=1e-2)
    assert (strong - plain).norm() > (fair - plain).norm()


def test_degradation_parity_is_met_by_the_dense_model_it_scores() -> None:
    model = SmallMLP()
    loader, group = batches_for(model, 3), group_of(model, model.fc2)
    relative = BiFPImportance(model, loader, constraint=DegradationParity(tolerance=0.0))(group)
    assert torch.allclose(relative, BiFPImportance(model, loader)(group))


def test_scores_follow_training_and_pruning() -> None:
    model = SmallMLP()
    loader = batches_for(model, 3)
    importance = BiFPImportance(model, loader)
    group = group_of(model, model.fc2)
    first = importance(group)
    assert torch.equal(importance(group), first)
    optimizer = SGD(model.parameters(), lr=0.5)
    x, y, _ = loader[0]
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert torch.equal(importance(group), BiFPImportance(model, loader)(group))
    assert not torch.allclose(importance(group), first)


def test_iterative_pruning_measures_every_round_afresh() -> None:
    torch.manual_seed(5)
    model = SmallCNN()
    loader = batches_for(model, 3)
    importance = BiFPImportance(model, loader)
    pruner = tp.pruner.BasePruner(
        model, example_of(model), importance, pruning_ratio=0.5, iterative_steps=2, ignored_layers=[model.fc]
    )
    pruner.step()
    assert model.conv2.out_channels == 12
    graph = pruner.DG
    group = graph.get_pruning_group(model.conv2, tp.prune_conv_out_channels, list(range(12)))
    assert torch.equal(importance(group), BiFPImportance(model, loader)(group))
    pruner.step()
    assert (model.conv1.out_channels, model.conv2.out_channels) == (4, 8)


def test_learned_scores_of_a_run_serve_another_pruner() -> None:
    model = SmallMLP()
    run = BiFPPruner(model, example_of(model), pruning_ratio=0.5, ignored_layers=[model.head], total_steps=20)
    drive(run, model, SGD(model.parameters(), lr=0.05), batches_for(model, 20))
    importance = BiFPImportance(run=run)
    index = [group.channels.name for group in run.host_groups].index("fc1")
    scores = run.engine.scores.value()[run.engine.weights.of(index)]
    group = run.DG.get_pruning_group(model.fc1, tp.prune_linear_out_channels, list(range(16)))
    assert torch.equal(importance(group), scores)
    # Channels in another order come with their own scores.
    shuffled = run.DG.get_pruning_group(model.fc1, tp.prune_linear_out_channels, [3, 1, 2])
    assert torch.equal(importance(shuffled), scores[list(shuffled[0].idxs)])
    # What the run does not know is skipped, as Torch-Pruning's contract has it.
    other = SmallMLP()
    assert importance(group_of(other, other.fc1)) is None

    # Another pruner on the same model removes exactly what the run would.
    hidden = (~run.engine.weights.keep[run.engine.weights.of(index)]).nonzero().reshape(-1).tolist()
    plain = tp.pruner.BasePruner(model, example_of(model), importance, pruning_ratio=0.5, ignored_layers=[model.head])
    removed = {g[0].dep.target.module: sorted(g[0].idxs) for g in plain.step(interactive=True)}
    assert removed[model.fc1] == sorted(scores.argsort()[:8].tolist())
    assert len(hidden) == 8


@pytest.mark.parametrize(
    "arguments",
    [
        lambda model, run: {},
        lambda model, run: {"model": model},
        lambda model, run: {"loader": []},
        lambda model, run: {"model": model, "loader": [], "run": run},
    ],
    ids=["nothing", "no-loader", "no-model", "both"],
)
def test_a_run_or_a_model_with_a_loader(arguments: Any) -> None:
    model = SmallMLP()
    with pytest.raises(ConfigError, match=r"either run=pruner .* or a model and a calibration loader"):
        BiFPImportance(**arguments(model, object()))


def test_an_empty_loader() -> None:
    model = SmallMLP()
    with pytest.raises(DataError, match="calibration loader of BiFPImportance is empty"):
        BiFPImportance(model, [])(group_of(model, model.fc2))


def test_a_constraint_needs_s() -> None:
    model = SmallMLP()
    pairs: list[Any] = [(x, y) for x, y, _ in batches_for(model, 2)]
    with pytest.raises(DataError, match="sensitive attribute"):
        BiFPImportance(model, pairs, constraint=EqualOpportunity(tolerance=0.1))(group_of(model, model.fc2))
    assert all(p.grad is None for p in model.parameters())
    assert BiFPImportance(model, pairs)(group_of(model, model.fc2)).shape == (16,)


def test_max_batches_bounds_the_calibration() -> None:
    model = SmallMLP()
    given: list[int] = []

    class Endless:
        def __iter__(self) -> Any:
            batch: Batches = batches_for(model, 1)
            while True:
                given.append(1)
                yield batch[0]

    BiFPImportance(model, Endless(), max_batches=4).calibrate()
    assert 4 <= len(given) <= 5


def test_the_first_scores_of_a_run_may_come_from_any_importance() -> None:
    model = SmallMLP()
    importance = BiFPImportance(model, batches_for(model, 3))
    pruner = BiFPPruner(
        model, example_of(model), importance, pruning_ratio=0.5, ignored_layers=[model.head], total_steps=4
    )
    index = [group.channels.name for group in pruner.host_groups].index("fc2")
    expected = importance(group_of(model, model.fc2))
    torch.testing.assert_close(pruner.engine.scores.value()[pruner.engine.weights.of(index)], expected)
