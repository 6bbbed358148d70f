"""What BiFP costs: a training step as a ratio to a plain step of the same model, construction, memory, groups of people.

Each round takes one plain step and one of every kind of ours on the same batch, in random order, so that a machine whose
speed drifts slows all of them. Printed: medians of the per-round ratios. ``--out`` writes the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin import BiLevelConfig, EqualOpportunity, MultiplierConfig
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.torch_pruning import BiFPPruner
from resnet18 import ResNet18

Forward = Callable[[nn.Module, Tensor], Tensor]
GROUPS = (2, 10, 100, 1000)
KINDS = ("plain", "joint", "weight", "mask")
# Pixels of a side and batch that a model is usually trained with, in small batches; and a case where little is computed
# for each parameter.
USUAL = {
    "mlp": (32, 128),
    "resnet18": (224, 16),
    "resnet50": (224, 16),
    "mobilenetv2": (224, 16),
    "vit_small": (224, 16),
}
SMALL = (64, 16)
GOALS = {"weight step": 1.03, "joint step": 1.05, "mask step": 1.05}
TOTAL_STEPS = 10**6
BUILT = 5  # times that every pruner is built


def mlp(size: int) -> tuple[nn.Module, nn.Module, Forward]:
    """Three hidden layers of 512 over ``3 · size²`` features: 7 million parameters at 64."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(3 * size * size, 512), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(512, 2))
    return model, model[-1], lambda m, x: m(x)


def resnet18(size: int) -> tuple[nn.Module, nn.Module, Forward]:
    model = ResNet18(num_classes=2)
    return model, model.fc, lambda m, x: m(x)


def pytorchcv(module: str, name: str) -> Callable[[int], tuple[nn.Module, nn.Module, Forward]]:
    def build(size: int) -> tuple[nn.Module, nn.Module, Forward]:
        factory = getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)
        model = factory(num_classes=2, in_size=(size, size))
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)
        return model, model.output, lambda m, x: m(x)

    return build


def vit_small(size: int) -> tuple[nn.Module, nn.Module, Forward]:
    """ViT-S/16 (Touvron et al., 2021): 12 layers of width 384; its feed-forward widths are pruned."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, image_size=size, patch_size=16, num_labels=2
    )
    model = ViTForImageClassification(config)
    return model, model.classifier, lambda m, x: m(x).logits


MODELS: dict[str, Callable[[int], tuple[nn.Module, nn.Module, Forward]]] = {
    "mlp": mlp,
    "resnet18": resnet18,
    "resnet50": pytorchcv("resnet", "resnet50"),
    "mobilenetv2": pytorchcv("mobilenetv2", "mobilenetv2_w1"),
    "vit_small": vit_small,
}


def ignored_layers(name: str, model: nn.Module, head: nn.Module) -> list[nn.Module]:
    """Of a transformer everything but the feed-forward blocks' inner width."""
    if name != "vit_small":
        return [head]
    return [
        m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d) and getattr(m, "out_features", 0) != 1536
    ]


def host_options(name: str, model: nn.Module, head: nn.Module, forward: Forward, ratio: float) -> dict[str, Any]:
    """What Torch-Pruning's own pruners and ours are built with."""
    fresh: dict[str, Any] = {key: {} for key in ("num_heads", "in_channel_groups", "out_channel_groups")}
    ignored = ignored_layers(name, model, head)
    return {"pruning_ratio": ratio, "ignored_layers": ignored, "forward_fn": forward, **fresh}


def bifp(model: nn.Module, x: Tensor, options: dict[str, Any], steps: int, *, self_check: bool) -> BiFPPruner:
    return BiFPPruner(
        model,
        x,
        constraint=EqualOpportunity(tolerance=0.02),
        total_steps=steps,
        bilevel=BiLevelConfig(ramp_end=1.0),
        self_check=self_check,
        **options,
    )


def measure_construction(name: str, args: argparse.Namespace, clock: Callable[[], float]) -> dict[str, Any]:
    """One row of the table of construction."""
    torch.manual_seed(0)
    size = SMALL[0]
    model, head, forward = MODELS[name](size)
    x = torch.randn(1, 3, size, size)
    group_norm = tp.importance.GroupMagnitudeImportance(p=2)
    builders: dict[str, Callable[[dict[str, Any]], Any]] = {
        "graph": lambda options: tp.pruner.BasePruner(model, x, importance=None, **options),
        "GroupNormPruner": lambda options: tp.pruner.GroupNormPruner(model, x, importance=group_norm, **options),
        "without self check": lambda options: bifp(model, x, options, 2_000, self_check=False),
        "BiFPPruner": lambda options: bifp(model, x, options, 2_000, self_check=True),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in builders}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(1 + BUILT):
            for kind, build in builders.items():
                options = host_options(name, model, head, forward, args.ratio)
                begin = clock()
                build(options)
                seconds[kind].append(clock() - begin)
    graph = statistics.median(seconds["graph"][1:])
    row: dict[str, Any] = {"model": name, "graph, milliseconds": round(1000 * graph, 1)}
    for kind in ("GroupNormPruner", "without self check", "BiFPPruner"):
        row[kind] = f"{statistics.median(seconds[kind][1:]) / graph:.1f}"
    return row


class Subject:
    """A model in the middle of its ramp: some 44 % of the channels are hidden (of 50 %)."""

    def __init__(self, name: str, size: int, batch: int, args: argparse.Namespace) -> None:
        self.model, head, self.forward = MODELS[name](size)
        # Scores that never change would never move the mask.
        self.batches = [
            (torch.randn(batch, 3, size, size), *(torch.randint(0, 2, (batch,)) for _ in range(2))) for _ in range(4)
        ]
        options = host_options(name, self.model, head, self.forward, args.ratio)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pruner = bifp(self.model, self.batches[0][0][:1], options, TOTAL_STEPS, self_check=False)
        self.model.train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        engine = self.pruner.engine
        engine.set_mask(self.pruner.budget.project(engine.scores.value(), engine.timetable.progress(TOTAL_STEPS // 2)))
        self.held = sum(p.held.numel() for p in engine.weights.parameters if p.held is not None)

    def took(self, kind: str, round_: int, clock: Callable[[], float]) -> float:
        """Seconds of one step of a kind."""
        engine, weights = self.pruner.engine, self.pruner.engine.weights
        # The mask moves by as much as it does in a ramp of 400 steps.
        engine.phase_step = TOTAL_STEPS // 2 + TOTAL_STEPS // 400 * (round_ % 8)
        engine.config = dataclasses.replace(engine.config, joint=kind != "mask", weight_steps_per_mask_step=1)
        held = [parameter.held for parameter in weights.parameters]
        if kind == "weight":
            engine.timetable.ramp_end = engine.phase_step
            weights.finish()
        batch = self.batches[round_ % len(self.batches)]
        begin = clock()
        self._plain_step(*batch) if kind == "plain" else self._step(*batch)
        seconds = clock() - begin
        engine.timetable.ramp_end = TOTAL_STEPS
        if kind == "weight":
            weights.final = False
            for parameter, values in zip(weights.parameters, held, strict=True):
                parameter.held = values
        return seconds

    def _plain_step(self, x: Tensor, y: Tensor, s: Tensor) -> None:
        # The same model and optimizer, so that all kinds of step touch the same memory; nothing of BiFP runs.
        self.pruner.engine._weights_move = False
        self.optimizer.zero_grad()
        F.cross_entropy(self.forward(self.model, x), y).backward()
        self.optimizer.step()

    def _step(self, x: Tensor, y: Tensor, s: Tensor) -> None:
        self.optimizer.zero_grad()
        self.pruner.loss(self.forward(self.model, x), y, s).backward()
        self.pruner.regularize(self.model)
        self.optimizer.step()


def measure_steps(
    name: str, shape: tuple[int, int], args: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, Any]:
    """One row of a table of steps; ``shape``: pixels of a side and batch."""
    torch.manual_seed(0)
    size, batch = shape
    order, subject = random.Random(0), Subject(name, size, batch, args)
    first = [subject.took(kind, 0, clock) for kind in KINDS for _ in range(2)]
    rounds = max(args.rounds, int(args.seconds / sum(first[1::2])))
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for i in range(rounds):
        for kind in order.sample(KINDS, len(KINDS)):
            took[kind].append(subject.took(kind, i, clock))
    parameters = sum(p.numel() for p in subject.model.parameters())
    row: dict[str, Any] = {
        "model": name,
        "parameters": f"{parameters / 1e6:.1f} M",
        "pixels": f"{size} × {size}",
        "batch": batch,
        "rounds": rounds,
        "plain step, seconds": round(statistics.median(took["plain"]), 3),
    }
    for kind, column in zip(KINDS[1:], ("joint step", "weight step", "mask step"), strict=True):
        ratios = [own / plain for own, plain in zip(took[kind], took["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios)
        row[column] = f"{middle:.3f} ({low:.3f}…{high:.3f})"
    return row | {"held": round(subject.held / parameters, 2)}


def measure_groups(rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Milliseconds of the penalty of a batch with its gradient and of the multipliers' step, by number of groups."""
    rows = []
    for count in GROUPS:
        lagrangian = Lagrangian(EqualOpportunity(0.02, groups=count), config=MultiplierConfig())
        logits = torch.randn(256, 2, requires_grad=True)
        y, s = torch.randint(2, (256,)), torch.randint(count, (256,))
        seconds = []
        for _ in range(rounds + 3):
            begin = clock()
            lagrangian.loss(logits, y, s).backward()
            lagrangian.dual_step_from_training()
            seconds.append(clock() - begin)
        rows.append({"groups": count, "milliseconds": round(1000 * statistics.median(seconds[3:]), 2)})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(
    usual: list[dict[str, Any]],
    small: list[dict[str, Any]],
    construction: list[dict[str, Any]],
    groups: list[dict[str, Any]],
    args: argparse.Namespace,
) -> str:
    command = f"--rounds {args.rounds} --seconds {args.seconds:g}"
    return f"""# Performance

Made by `benchmarks/step_overhead.py {command} --clock {args.clock}`
on a CPU with {args.threads} thread(s), torch {torch.__version__}: {args.ratio:.0%} pruning, SGD with momentum and
weight decay. {args.note}

## Steps

Medians (and quartiles) of ratios to a plain step taken in the same round on the same batch. A user gets, by default, *joint
steps* while the mask is learned (the first fifth of a run: one backward pass moves weights and scores) and *weight steps*
once it is final. The *mask step* is that of strict alternation (`joint=False`), which leaves the weights alone. *Held*:
weights kept aside for hidden channels that may return, as a share of the parameters, while the mask is learned; once it is
final, nothing is held.

Images of the size that these networks are made for (those of CIFAR for the MLP), in modest batches:

{table(usual)}

{_reached(usual)}

Little computed for each parameter: small images in small batches:

{table(small)}

{_reached(small)}

Where it goes. A weight step multiplies the mask into two tensors of each layer that reads hidden channels: the gradient
before the optimizer's step, the weights after it. A joint step looks at these layers' weights, gradients and held weights
once more for the scores, and brings the rows of hidden channels back, which momentum and weight decay have moved. All of
it is in proportion to the parameters, not to the batch: it shows most where a step does little work for each parameter
(small batches, and the MLP, 92 % of whose parameters are in its first layer). The penalty costs the same whatever the
model (last table).

## Construction

In units of Torch-Pruning building its graph and groups (its `BasePruner`; goal: 2); `GroupNormPruner` is the host's
own sparse-training pruner. The self check tries on a copy, before any training, whether the masked model equals the pruned
one: it copies the weights that the mask multiplies, runs the copy, prunes it through the host and runs it again. Together
that takes two to three times as long as a graph; `self_check=False` leaves it out.

{table(construction)}

## Groups of people

The part of a step that depends on their number (256 samples, equal opportunity): the task loss and the penalty with their
gradients, counts and multipliers.

{table(groups)}
"""


def _reached(steps: list[dict[str, Any]]) -> str:
    """Which rows are within the goals, in words made of the table."""
    sentences = []
    for column, goal in GOALS.items():
        missed = [f"{row['model']} ({row[column].split()[0]})" for row in steps if float(row[column].split()[0]) > goal]
        within = f"{len(steps) - len(missed)} of {len(steps)} rows are within {goal:g}"
        sentences.append(f"{column.capitalize()}: {within}" + (f", not {', '.join(missed)}." if missed else "."))
    return "Goals: a weight step within 1.03, one that learns the mask within 1.05. " + " ".join(sentences)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=15, help="at least")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a row at least")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="wall", help="cpu: of this process")
    parser.add_argument("--note", default="", help="what the reader of the page should know about this measurement")
    parser.add_argument("--out", type=Path, help="Markdown file to write, docs/performance.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = {"cpu": time.process_time, "wall": time.perf_counter}[args.clock]
    construction = []
    for name in args.models:
        construction.append(measure_construction(name, args, clock))
        print(json.dumps(construction[-1], ensure_ascii=False), flush=True)
    usual, small = [], []
    for name in args.models:
        for rows, shape in ((usual, USUAL[name]), (small, SMALL)):
            rows.append(measure_steps(name, shape, args, clock))
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the 1000 groups, most are in no batch
        groups = measure_groups(max(args.rounds, 30), clock)
    print(json.dumps(groups), flush=True)
    if args.out is not None:
        args.out.write_text(page(usual, small, construction, groups, args))


if __name__ == "__main__":
    main()
