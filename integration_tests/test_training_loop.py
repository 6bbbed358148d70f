"""Issue 2: exactly the loop of the README, on small models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from driving import SGD, SmallCNN, SmallMLP, batches_for, drive, example_of, output_layer
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.errors import FairPruneWarning, TrainingStateError
from fairprune_plugin.torch_pruning import BiFPPruner

MODELS = {"cnn": SmallCNN, "mlp": SmallMLP}
# Layers in forward order: the channels a layer writes are the columns the next one reads.
CHAINS = {"cnn": ("conv1", "conv2", "conv3", "fc"), "mlp": ("fc1", "fc2", "head")}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
STEPS = 40


def build(kind: str, **options: Any) -> tuple[nn.Module, BiFPPruner]:
    model = MODELS[kind]()
    defaults = {
        "pruning_ratio": 0.5,
        "total_steps": STEPS,
        "constraint": EqualOpportunity(tolerance=0.02),
        # Steps that move the mask alone can be told apart from those that move the weights.
        "bilevel": {"warmup": 0.05, "ramp_end": 0.5, "joint": False},
    }
    return model, BiFPPruner(model, example_of(model), ignored_layers=[output_layer(model)], **{**defaults, **options})


def kept_of(pruner: BiFPPruner, layer: str) -> Tensor:
    """Which of a layer's output channels the mask keeps."""
    (index,) = [i for i, group in enumerate(pruner.host_groups) if group.channels.name == layer]
    return pruner.engine.weights.keep[pruner.engine.weights.of(index)].clone()


class Watcher:
    """Looks at the model after every optimizer step: hidden columns, frozen weights, number of hidden channels."""

    def __init__(self, kind: str, model: nn.Module, pruner: BiFPPruner) -> None:
        self.chain, self.model, self.pruner = CHAINS[kind], model, pruner
        self.known = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.hidden: list[list[int]] = []
        self.moved = 0
        self.frozen = 0

    def __call__(self, step: int) -> None:
        keep = {layer: kept_of(self.pruner, layer) for layer in self.chain[:-1]}
        self.hidden.append([int((~kept).sum()) for kept in keep.values()])
        for name, parameter in self.model.named_parameters():
            owner, _, _ = name.rpartition(".")
            layer = owner.replace("bn", "conv" if "conv1" in keep else "fc")
            live, known = parameter.detach(), self.known[name]
            frozen, zero = torch.zeros_like(live, dtype=torch.bool), torch.zeros_like(live, dtype=torch.bool)
            if layer in keep:
                frozen[~keep[layer]] = True
            position = self.chain.index(layer)
            if position and name.endswith("weight") and layer == owner:
                zero[:, ~keep[self.chain[position - 1]]] = True
            assert not live[zero].any(), f"step {step}: {name} reads hidden channels"
            # What a channel left with: frozen where it is hidden, and (not seen here) held where it is zero. Once the mask
            # is final nothing hidden can return, and momentum may do with it what it likes.
            if not self.pruner.engine.weights.final:
                assert torch.equal(live[frozen & ~zero], known[frozen & ~zero]), (
                    f"step {step}: {name} moved while hidden"
                )
                self.frozen += int((frozen & ~zero).sum())
            self.moved += int((live != known)[~zero].sum())
            self.known[name] = torch.where(zero, known, live)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_hidden_channels_stay_hidden_and_frozen(kind: str, optimizer: str) -> None:
    model, pruner = build(kind)
    watcher = Watcher(kind, model, pruner)
    drive(pruner, model, OPTIMIZERS[optimizer](model.parameters()), batches_for(model, STEPS), watcher)

    # The ratio rises as the cubic schedule says: from step 2 (5 % of 40) to step 20 (50 %), at every second step.
    expected = []
    for step in range(STEPS):
        if step < 20 and step % 2 == 1:
            t = min(max((step + 1 - 2) / 18, 0), 1)
            ratio = 0.5 * (1 - (1 - t) ** 3)
            sizes = [len(kept_of(pruner, layer)) for layer in CHAINS[kind][:-1]]
            now = [size - int(size * (1 - ratio) + 1e-6) for size in sizes]
        else:
            now = expected[-1] if expected else [0] * (len(CHAINS[kind]) - 1)
        expected.append(now)
    assert watcher.hidden == expected
    assert watcher.moved > 0
    assert watcher.frozen > 0

    # step() removes exactly the hidden channels and changes no other value.
    chain = CHAINS[kind]
    keep = {layer: kept_of(pruner, layer) for layer in chain[:-1]}
    before = {layer: model.get_submodule(layer).weight.detach().clone() for layer in chain}
    pruner.step()
    for position, layer in enumerate(chain):
        weight = before[layer][keep[layer]] if layer in keep else before[layer]
        if position:
            weight = weight[:, keep[chain[position - 1]]]
        assert torch.equal(model.get_submodule(layer).weight, weight), layer


def test_a_hidden_channel_is_scored_and_returns_as_it_left() -> None:
    model, pruner = build("cnn", bilevel={"warmup": 0.0, "ramp_end": 1.0, "joint": False, "score_decay": 0.9})
    units = pruner.engine.weights.num_units
    hide, show = torch.ones(units, dtype=torch.bool), torch.ones(units, dtype=torch.bool)
    (conv1,) = [i for i, group in enumerate(pruner.host_groups) if group.channels.name == "conv1"]
    unit = pruner.engine.weights.offsets[conv1]
    hide[unit] = False  # channel 0 of conv1
    hidden_until = 20
    pruner.engine.project = lambda scores, progress: hide if pruner.engine.step_index < hidden_until else show
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    columns, rows, scores = [], [], []

    def watch(step: int) -> None:
        columns.append(model.conv2.weight.detach()[:, 0].clone())
        rows.append(model.conv1.weight.detach()[0].clone())
        scores.append(float(pruner.engine.scores.second[unit]))

    drive(pruner, model, optimizer, batches_for(model, STEPS), watch)
    # Step 1 is the first mask step (it hides), 21 the first one that shows again; mask steps move no weight.
    assert columns[0].any()
    assert not torch.stack(columns[1:21]).any()
    assert torch.equal(columns[21], columns[0])
    assert all(torch.equal(row, rows[0]) for row in rows[:22])
    assert not torch.equal(rows[22], rows[0])  # and now it trains again
    assert not torch.equal(columns[22], columns[0])
    # Every mask step moved the hidden channel's score by the decay of the running mean and a gradient.
    for step in range(3, 21, 2):
        assert scores[step] > 0.9 * scores[step - 2]


# ---- every argument of BasePruner keeps its meaning --------------------------------------------------------


def frozen_scores(pruner: BiFPPruner) -> BiFPPruner:
    """Switches learning off: the scores stay those of the importance, so the host's own choice is the oracle."""
    pruner.engine.scores.update = lambda *_: None
    return pruner


def zoo_model(name: str) -> tuple[Any, nn.Module]:
    from zoo import CASES, randomise

    (case,) = [case for case in CASES if case.name == name]
    torch.manual_seed(1)
    return case, randomise(case.build())


def no_options(_: nn.Module) -> dict[str, Any]:
    return {}


OPTIONS: list[tuple[str, str, Callable[[nn.Module], dict[str, Any]]]] = [
    *[
        (f"local-{name}", name, no_options)
        for name in (
            "resnet-basic",
            "resnet-bottleneck",
            "resnext",
            "mobilenetv2",
            "densenet",
            "vgg-bn-flatten",
            "efficientnet-se",
            "unet",
            "groupnorm-convnet",
            "mlp-layernorm",
        )
    ],
    ("ratio-0.3", "resnet-basic", lambda _: {"pruning_ratio": 0.3}),
    ("ratio-0.7", "resnet-basic", lambda _: {"pruning_ratio": 0.7}),
    ("global", "resnet-basic", lambda _: {"global_pruning": True}),
    ("global-depthwise", "mobilenetv2", lambda _: {"global_pruning": True, "pruning_ratio": 0.3}),
    ("global-concat", "densenet", lambda _: {"global_pruning": True, "pruning_ratio": 0.3}),
    ("global-se", "efficientnet-se", lambda _: {"global_pruning": True, "pruning_ratio": 0.3}),
    ("isomorphic", "resnet-basic", lambda _: {"global_pruning": True, "isomorphic": True}),
    ("isomorphic-bottleneck", "resnet-bottleneck", lambda _: {"global_pruning": True, "isomorphic": True}),
    ("isomorphic-depthwise", "mobilenetv2", lambda _: {"global_pruning": True, "isomorphic": True}),
    ("round-to", "resnet-basic", lambda _: {"round_to": 4, "pruning_ratio": 0.4}),
    ("round-to-global", "resnet-basic", lambda _: {"round_to": 4, "pruning_ratio": 0.3, "global_pruning": True}),
    ("dict-layer", "resnet-basic", lambda m: {"pruning_ratio_dict": {m.stages[0].conv1: 0.25}}),
    ("dict-block", "resnet-basic", lambda m: {"pruning_ratio_dict": {m.stages[2]: 0.25}}),
    (
        "dict-tuple-local",
        "resnet-basic",
        lambda m: {"pruning_ratio_dict": {(m.stages[0].conv1, m.stages[1].conv1): 0.25}},
    ),
    (
        "dict-tuple-global",
        "resnet-basic",
        lambda m: {"global_pruning": True, "pruning_ratio_dict": {(m.stages[0].conv1, m.stages[4].conv1): 0.25}},
    ),
    (
        "dict-capped",
        "resnet-basic",
        lambda m: {"max_pruning_ratio": 0.5, "pruning_ratio_dict": {m.stages[0].conv1: 0.9}},
    ),
    ("ignored-block", "resnet-basic", lambda m: {"ignored_layers": [m.fc, m.stages[1]]}),
    ("heads", "hf-vit-heads", no_options),
    ("heads-bert", "hf-bert-heads", no_options),
    ("heads-global", "hf-vit-heads", lambda _: {"global_pruning": True}),
    ("ffn", "hf-bert-ffn", no_options),
]


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.filterwarnings("ignore:none of the .* mask steps taught the scores anything")
@pytest.mark.parametrize(("name", "options"), [o[1:] for o in OPTIONS], ids=[o[0] for o in OPTIONS])
def test_with_the_same_scores_the_channels_are_those_of_torch_pruning(
    name: str, options: Callable[[nn.Module], dict[str, Any]]
) -> None:
    from driving import pruner_of, train_case

    case, ours = zoo_model(name)
    theirs = copy.deepcopy(ours)
    # Torch-Pruning takes layer norms' affines in the order of a Python set; on these widths it is sorted.
    importance = tp.importance.GroupMagnitudeImportance()
    needed = {"pruning_ratio": 0.5, "ignored_layers": case.ignored(theirs), **case.pruner_kwargs(theirs)}
    host = tp.pruner.BasePruner(theirs, case.inputs(), importance, **{**needed, **options(theirs)})
    host.step()

    pruner = frozen_scores(pruner_of(case, ours, importance=importance, total_steps=2, **options(ours)))
    train_case(pruner, case, ours, SGD(ours.parameters(), lr=0.0), steps=2)
    pruner.step()

    left, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert {k: tuple(v.shape) for k, v in left.items()} == {k: tuple(v.shape) for k, v in expected.items()}
    wrong = [k for k, v in left.items() if not torch.equal(v, expected[k])]
    assert wrong == []


def test_rounds_remove_what_torch_prunings_rounds_remove() -> None:
    case, ours = zoo_model("resnet-basic")
    from driving import pruner_of, train_case, widths

    theirs = copy.deepcopy(ours)
    host = tp.pruner.BasePruner(
        theirs,
        case.inputs(),
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.6,
        iterative_steps=3,
        ignored_layers=case.ignored(theirs),
    )
    pruner = pruner_of(case, ours, pruning_ratio=0.6, iterative_steps=3, total_steps=12)
    optimizer: torch.optim.Optimizer = SGD(ours.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        host.step()
        train_case(pruner, case, ours, optimizer, steps=4)
        pruner.step()
        optimizer = pruner.rebuild_optimizer(optimizer)
        assert widths(ours) == widths(theirs)
    assert pruner.current_step == 3


def test_interactive_yields_groups_that_the_caller_prunes() -> None:
    torch.manual_seed(3)
    model, pruner = build("cnn")
    drive(pruner, model, OPTIMIZERS["sgd"](model.parameters()), batches_for(model, STEPS))
    roots = []
    for group in pruner.step(interactive=True):
        dep, idxs = group[0]
        roots.append((pruner.DG._module2name[dep.target.module], len(idxs)))
        group.prune()
    assert sorted(roots) == [("conv1", 4), ("conv2", 8), ("conv3", 8)]
    assert [model.conv1.out_channels, model.conv2.out_channels, model.fc.in_features] == [4, 8, 8]
    assert model(example_of(model)).shape == (4, 2)


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"target": "params"}, {"round_to": 4}], ids=str)
def test_max_pruning_ratio_is_a_floor_at_every_moment(options: dict[str, Any]) -> None:
    model = SmallCNN(width=16)
    pruner = BiFPPruner(
        model,
        example_of(model),
        ignored_layers=[model.fc],
        pruning_ratio=0.6 if options.get("target") else 0.9,
        max_pruning_ratio=0.75,
        total_steps=STEPS,
        **options,
    )
    least = {"conv1": 4, "conv2": 8, "conv3": 8}
    seen = []

    def watch(_: int) -> None:
        seen.append({layer: int(kept_of(pruner, layer).sum()) for layer in least})

    drive(pruner, model, OPTIMIZERS["momentum"](model.parameters()), batches_for(model, STEPS), watch)
    assert all(kept[layer] >= least[layer] for kept in seen for layer in least)
    pruner.step()
    assert {layer: model.get_submodule(layer).out_channels for layer in least} == seen[-1]
    if not options.get("target"):
        assert seen[-1] == least  # 0.9 was asked for, 0.75 is what may go


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("target", ["params", "macs"])
@pytest.mark.parametrize("name", ["resnet", "bottleneck", "mobilenetv2", "densenet", "unet"])
def test_a_size_budget_is_met_within_two_percent(name: str, target: str, ratio: float) -> None:
    from driving import pruner_of, train_case
    from zoo import CASES, resnet_basic, unet

    zoo_name = {"resnet": "resnet-basic", "bottleneck": "resnet-bottleneck"}.get(name, name)
    (case,) = [case for case in CASES if case.name == zoo_name]
    # Wide enough that a single channel costs well under 2 % of what is left.
    wide = {"resnet": lambda: resnet_basic.ResNetBasic(width=16), "unet": lambda: unet.UNet(width=16)}
    model = wide.get(name, case.build)()
    macs, params = tp.utils.count_ops_and_params(model, case.inputs())
    pruner = pruner_of(case, model, pruning_ratio=ratio, target=target, total_steps=8)
    train_case(pruner, case, model, SGD(model.parameters(), lr=0.01), steps=8)
    pruner.step()
    macs_left, params_left = tp.utils.count_ops_and_params(model, case.inputs())
    asked = (1 - ratio) * (params if target == "params" else macs)
    assert (params_left if target == "params" else macs_left) == pytest.approx(asked, rel=0.02)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
@pytest.mark.parametrize("name", ["hf-vit-heads", "hf-bert-heads"])
@pytest.mark.parametrize("options", [{"prune_num_heads": True, "prune_head_dims": False}, {}], ids=["heads", "dims"])
def test_attention_loses_heads_or_head_dims(name: str, options: dict[str, Any]) -> None:
    from driving import judged, pruner_of, train_case

    case, model = zoo_model(name)
    asked = {"prune_num_heads": False, "prune_head_dims": True, "head_pruning_ratio": 0.0, **options}
    if options:
        asked["head_pruning_ratio"] = 0.5
    pruner = pruner_of(case, model, total_steps=4, **asked)
    train_case(pruner, case, model, SGD(model.parameters(), lr=1e-3), steps=4)
    masked = judged(case, model)
    pruner.step()
    pruned = judged(case, model)
    assert (masked - pruned).abs().max() <= 1e-4 * masked.abs().max()
    layers = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in ("q_proj", "query", "v_proj", "value")]
    assert len(layers) == 4
    assert {layer.out_features for layer in layers} == {16}  # of 32: two of four heads, or four of eight dims
    heads = {
        m.num_attention_heads for m in model.modules() if type(m).__name__ in ("ViTAttention", "BertSelfAttention")
    }
    assert heads == ({2} if options else {4})


# ---- frozen layers and unusual models ----------------------------------------------------------------------


def test_channels_that_only_frozen_layers_read_stay() -> None:
    """conv2 reads conv1 and is frozen: nothing would score conv1's channels."""
    model = SmallCNN()
    model.conv2.requires_grad_(False)
    with pytest.warns(FairPruneWarning, match="those that only frozen layers read"):
        pruner = BiFPPruner(model, example_of(model), ignored_layers=[model.fc], pruning_ratio=0.5, total_steps=8)
    assert [group.channels.name for group in pruner.host_groups if group.channels.name == "conv1"] == []
    assert "conv2" in [group.channels.name for group in pruner.host_groups]


def test_freezing_after_construction_is_refused() -> None:
    model = SmallCNN()
    pruner = BiFPPruner(model, example_of(model), ignored_layers=[model.fc], pruning_ratio=0.5, total_steps=8)
    model.conv2.requires_grad_(False)
    x, y, s = batches_for(model, 1)[0]
    with pytest.raises(TrainingStateError, match="conv1 was frozen after the pruner was built"):
        pruner.loss(model(x), y, s)


@pytest.mark.parametrize(
    ("frozen", "left"),
    [
        (("conv1",), {"conv1": 4, "conv2": 8, "conv3": 8}),
        # Only a frozen layer reads conv1's channels: nothing scores them, so they stay.
        (("conv1", "bn1", "conv2", "bn2"), {"conv1": 8, "conv2": 8, "conv3": 8}),
    ],
    ids=["conv1", "backbone"],
)
def test_frozen_layers_lose_channels_and_keep_their_values(frozen: tuple[str, ...], left: dict[str, int]) -> None:
    model = SmallCNN()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    with pytest.warns(FairPruneWarning, match=r"frozen \(first: conv1.weight\)"):
        pruner = BiFPPruner(model, example_of(model), ignored_layers=[model.fc], pruning_ratio=0.5, total_steps=8)
    assert not model.conv1.weight.requires_grad
    before = {name: model.get_submodule(name).weight.detach().clone() for name in frozen}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    drive(pruner, model, SGD(trainable, lr=0.05, momentum=0.9), batches_for(model, 8))
    last = frozen[-1].replace("bn", "conv")
    keep = kept_of(pruner, last)
    masked = model.eval()(example_of(model))
    pruner.step()
    assert {name: model.get_submodule(name).out_channels for name in left} == left
    assert torch.equal(model.get_submodule(last).weight, before[last][keep])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.rsplit(".", 1)[0] not in frozen), name
    torch.testing.assert_close(model.eval()(example_of(model)), masked, rtol=1e-4, atol=1e-5)


class Scaled(nn.Module):
    """A learned scale per channel that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(1, 8, 1, 1))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc((self.conv(x) * self.scale).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("form", [dict, list])
def test_unwrapped_parameters_lose_their_channels(form: Callable[[Any], Any]) -> None:
    model, x = Scaled(), torch.randn(4, 3, 8, 8)
    pruner = BiFPPruner(
        model,
        x,
        ignored_layers=[model.fc],
        pruning_ratio=0.5,
        total_steps=2,
        unwrapped_parameters=form([(model.scale, 1)]),
    )
    drive(pruner, model, SGD(model.parameters(), lr=0.05), [(x, torch.tensor([0, 1, 0, 1]), torch.zeros(4).long())] * 2)
    masked = model.eval()(x)
    keep = kept_of(pruner, "conv")
    scale = model.scale.detach()[:, keep].clone()
    pruner.step()
    assert torch.equal(model.scale, scale)
    assert model.scale.shape == (1, 4, 1, 1)
    torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-6)


class Named(nn.Module):
    """Takes and returns dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallMLP()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.inner(batch["x"])}


@pytest.mark.parametrize("transform", [None, lambda out: out["logits"]], ids=["forward_fn", "with-output_transform"])
def test_forward_fn_and_output_transform(transform: Any) -> None:
    model, x = Named(), torch.randn(4, 6)
    pruner = BiFPPruner(
        model,
        {"x": x},
        ignored_layers=[model.inner.head],
        pruning_ratio=0.5,
        total_steps=4,
        forward_fn=lambda m, batch: m(batch),
        output_transform=transform,
    )
    optimizer = SGD(model.parameters(), lr=0.05)
    for x, y, s in batches_for(model.inner, 4):
        optimizer.zero_grad()
        pruner.loss(model({"x": x})["logits"], y, s).backward()
        pruner.regularize(model)
        optimizer.step()
    masked = model.eval()({"x": x})["logits"]
    pruner.step()
    assert model.inner.fc1.out_features == 8
    torch.testing.assert_close(model({"x": x})["logits"], masked, rtol=1e-4, atol=1e-6)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 16), nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        y: Tensor = self.head((self.left(left) + self.right(right)).relu())
        return y


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_several_inputs(form: str) -> None:
    model = TwoInputs()
    a, b = torch.randn(4, 6), torch.randn(4, 3)
    example = {"left": a, "right": b} if form == "dict" else (a, b)
    pruner = BiFPPruner(model, example, ignored_layers=[model.head], pruning_ratio=0.5, total_steps=2)
    optimizer = SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        pruner.loss(model(a, b), torch.tensor([0, 1, 1, 0])).backward()
        pruner.regularize(model)
        optimizer.step()
    masked = model(a, b)
    pruner.step()
    assert (model.left.out_features, model.right.out_features, model.head.in_features) == (8, 8, 8)
    torch.testing.assert_close(model(a, b), masked, rtol=1e-4, atol=1e-6)


def test_a_wrapper_around_the_model_may_be_regularized() -> None:
    model, pruner = build("mlp", total_steps=2)
    wrapper = nn.Sequential(model)
    x, y, s = batches_for(model, 1)[0]
    pruner.loss(wrapper(x), y, s).backward()
    pruner.regularize(wrapper)
    assert pruner.engine.step_index == 1


@pytest.mark.parametrize("ratio", [0.0, 0.01])
def test_a_ratio_that_hides_nothing_changes_nothing(ratio: float) -> None:
    model, pruner = build("mlp", pruning_ratio=ratio, total_steps=4)
    drive(pruner, model, SGD(model.parameters(), lr=0.05), batches_for(model, 4))
    masked = model.eval()(example_of(model))
    pruner.step()
    # 1 % of 16 channels is one channel: Torch-Pruning keeps int(16 · 0.99) = 15.
    assert model.fc1.out_features == (16 if ratio == 0 else 15)
    torch.testing.assert_close(model(example_of(model)), masked, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["cubic", "linear", "lottery_ticket", "constant"])
def test_schedules_serve_as_torch_prunings_own(name: str) -> None:
    from fairprune_plugin.masks.schedule import SCHEDULES

    model = SmallMLP()
    host = tp.pruner.BasePruner(
        model,
        example_of(model),
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.75,
        iterative_steps=3,
        iterative_pruning_ratio_scheduler=SCHEDULES[name],
        ignored_layers=[model.head],
    )
    seen = []
    for _ in range(3):
        host.step()
        seen.append(model.fc1.out_features)
    expected = {"cubic": [7, 4, 4], "linear": [12, 8, 4], "lottery_ticket": [10, 6, 4], "constant": [4, 4, 4]}
    assert seen == expected[name]
