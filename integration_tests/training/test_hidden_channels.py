"""Hidden channels stay hidden and frozen through the loop of the README, return as they left, and are what goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from driving import SGD, SmallCNN, SmallMLP, batches_for, drive, kept_of, small_pruner
from fairprune_plugin import EqualOpportunity
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
        "total_steps": STEPS,
        "constraint": EqualOpportunity(tolerance=0.02),
        # Steps that move the mask alone can be told apart from those that move the weights.
        "bilevel": {"warmup": 0.05, "ramp_end": 0.5, "joint": False},
    }
    return model, small_pruner(model, **{**defaults, **options})


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


class GatedBranches(nn.Module):
    """``cat(a, b) · c``: the branches have some channels of the gate's group each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.c, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        gated = torch.cat([self.a(x), self.b(x)], 1) * self.c(x).sigmoid()
        y: Tensor = self.head(gated.mean((2, 3)))
        return y


@pytest.mark.parametrize("target", ["channels", "params"])
@pytest.mark.parametrize("round_to", [None, 2])
def test_no_branch_of_a_concatenation_loses_all_its_channels(target: str, round_to: int | None) -> None:
    torch.manual_seed(0)
    model, x = GatedBranches(), torch.randn(4, 3, 8, 8)
    model.b.weight.data.mul_(30)  # ranked together, every channel of a goes before one of b
    pruner = BiFPPruner(
        model, x, pruning_ratio=0.6, target=target, round_to=round_to, ignored_layers=[model.head], total_steps=4
    )
    optimizer = SGD(model.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        pruner.loss(model(torch.randn(16, 3, 8, 8)), torch.arange(16) % 2).backward()
        pruner.regularize(model)
        optimizer.step()
    masked = model.eval()(x)
    pruner.step()
    torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-6)
    assert 1 <= model.a.out_channels < 4
    assert model.a.out_channels + model.b.out_channels == model.c.out_channels < 8
    assert pruner.rebuild_optimizer(optimizer).param_groups
