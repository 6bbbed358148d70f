"""The user's side of the tests: small models, biased data and the training loop of the README."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import _global_optimizer_post_hooks

from fairprune_plugin.engine.optimizers import OptimizerWatch
from fairprune_plugin.torch_pruning import BiFPPruner

if TYPE_CHECKING:
    from zoo import Case  # with transformers behind it, which takes seconds to import

Batches = list[tuple[Tensor, Tensor, Tensor]]
SGD = torch.optim.SGD

# For each property over a whole host; not a profile, which would be that of the unit tests as well.
few_examples = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


class SmallCNN(nn.Module):
    """Three convolutions with batch norm and a classifier; the last two share no channels with the input."""

    def __init__(self, width: int = 8, classes: int = 2) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        y: Tensor = self.fc(F.relu(self.conv3(h)).mean((2, 3)))
        return y


class SmallMLP(nn.Module):
    """Two hidden layers, the first with batch norm."""

    def __init__(self, features: int = 6, width: int = 16, classes: int = 2) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(features, width), nn.BatchNorm1d(width)
        self.fc2 = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.fc1(x)))
        y: Tensor = self.head(F.relu(self.fc2(h)))
        return y


def output_layer(model: nn.Module) -> nn.Module:
    """The last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def example_of(model: nn.Module, samples: int = 4) -> Tensor:
    """Inputs for :class:`SmallCNN` or :class:`SmallMLP`."""
    shape = (3, 8, 8) if isinstance(model, SmallCNN) else (6,)
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(7))


def batches_for(model: nn.Module, count: int, *, groups: int = 2, classes: int = 2, seed: int = 0) -> Batches:
    """Random batches of 16 in which every group has every class."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 8, 8) if isinstance(model, SmallCNN) else (6,)
    out = []
    for _ in range(count):
        y = torch.arange(16) % classes
        s = (torch.arange(16) // classes) % groups
        x = torch.randn(16, *shape, generator=generator) + y.reshape(-1, *[1] * len(shape))
        out.append((x, y, s))
    return out


def drive(
    pruner: BiFPPruner,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    after_step: Callable[[int], None] = lambda _: None,
) -> None:
    """The README's loop, without the final ``step()``."""
    model.train()
    for number, (x, y, s) in enumerate(batches):
        optimizer.zero_grad()
        loss = pruner.loss(model(x), y, s)
        loss.backward()
        pruner.regularize(model)
        optimizer.step()
        after_step(number)


def small_pruner(model: nn.Module, **options: Any) -> BiFPPruner:
    """A pruner for :class:`SmallCNN` or :class:`SmallMLP`, as a user would write it."""
    needed = {"pruning_ratio": 0.5, "ignored_layers": [output_layer(model)]}
    return BiFPPruner(model, example_of(model), **{**needed, **options})


def pruner_of(case: Case, model: nn.Module, **options: Any) -> BiFPPruner:
    """A pruner for a model of the zoo, with what its architecture needs."""
    needed = {"pruning_ratio": 0.5, "ignored_layers": case.ignored(model), **case.pruner_kwargs(model)}
    return BiFPPruner(model, case.inputs(), **{**needed, **options})


def kept_of(pruner: BiFPPruner, layer: str) -> Tensor:
    """Which of a layer's output channels the mask keeps."""
    (index,) = [i for i, group in enumerate(pruner.host_groups) if group.channels.name == layer]
    return pruner.engine.weights.keep[pruner.engine.weights.of(index)].clone()


def train_case(pruner: BiFPPruner, case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """``steps`` rounds of the loop on a case's own inputs, with made-up labels."""
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        logits = case.forward(model)
        logits = logits.flatten(2).mean(2) if logits.dim() > 2 else logits  # a U-Net answers per pixel
        loss = pruner.loss(logits, torch.arange(len(logits)) % logits.shape[1])
        loss.backward()
        pruner.regularize(model)
        optimizer.step()


def impose(pruner: BiFPPruner, keep: Tensor) -> None:
    """From the next mask step on, the mask is this one, whatever the scores say."""
    pruner.engine.project = lambda scores, progress: keep


@torch.no_grad()
def judged(case: Case, model: nn.Module) -> Tensor:
    """The logits in eval mode."""
    model.eval()
    return case.forward(model).clone()


def widths(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def stray_hooks(model: nn.Module) -> Iterator[str]:
    """Names of modules that carry hooks."""
    for name, module in model.named_modules():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(module, kind) for kind in kinds):
            yield name


def global_optimizer_hooks() -> set[int]:
    """Keys of torch's global optimizer hooks; pruners that nobody holds any more have taken theirs away."""
    gc.collect()
    OptimizerWatch([], lambda: None).stop()  # an occasion to take them away
    return set(_global_optimizer_post_hooks)
