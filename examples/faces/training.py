"""A plain dense training loop and an evaluation, for the models that the examples prune."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dataset import FaceSplit
from .errors import unknown

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Outputs of a model over a split, in the split's order, on the CPU.

    Attributes:
        logits: Outputs (N, C), float32.
        target: Classes (N,), int64.
        sensitive: Groups (N,), int64.
    """

    logits: Tensor
    target: Tensor
    sensitive: Tensor

    @property
    def correct(self) -> Tensor:
        """Whether the highest logit is the target: (N,), bool."""
        return self.logits.argmax(dim=1) == self.target

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, in [0, 1]."""
        return float(self.correct.double().mean())

    def group_accuracy(self, groups: int) -> Tensor:
        """Accuracy of each group: (G,), float64; NaN for a group without images."""
        hits = torch.bincount(self.sensitive[self.correct], minlength=groups)
        return hits.double() / torch.bincount(self.sensitive, minlength=groups)


def evaluate(model: nn.Module, split: FaceSplit, *, batch_size: int = 512) -> Evaluation:
    """Run a model in eval mode over a split; its train/eval mode is restored.

    Args:
        model: Maps (B, 3, H, W) to logits (B, C).
        split: The images.
        batch_size: Images per forward pass.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = [model(x.to(device)).float().cpu() for x, _, _ in split.loader(batch_size=batch_size)]
    finally:
        model.train(training)
    # Cloned: what leaves inference mode must be usable under autograd.
    return Evaluation(logits=torch.cat(logits).clone(), target=split.target, sensitive=split.sensitive)


def train(
    model: nn.Module,
    split: FaceSplit,
    *,
    epochs: int = 5,
    batch_size: int = 128,
    optimizer: str = "sgd",
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    seed: int = 0,
    flip: bool = True,
    after_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train all parameters in place with cross-entropy and one cosine from ``lr`` to 0.

    Args:
        model: Maps (B, 3, H, W) to logits (B, C); its initialisation is the caller's to seed.
        split: Training images; an incomplete last batch is left out unless it is the only one.
        epochs: Passes over the split.
        batch_size: Images per step.
        optimizer: ``"sgd"`` (momentum 0.9, Nesterov) or ``"adamw"``.
        lr: Peak learning rate, reached by a linear warm-up over the first 5 % of the steps.
        weight_decay: Of all parameters.
        seed: Of the order of the images and of the mirroring.
        flip: Mirror images at random.
        after_epoch: Called with the epoch's number, from 1, and its mean loss.

    Returns:
        Mean training loss of each epoch, length ``epochs``.

    Raises:
        UnknownChoiceError: If the optimizer is none of the above.
    """
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)
    stepper: torch.optim.Optimizer
    if optimizer == "sgd":
        stepper = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    else:
        stepper = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    whole = len(split) >= batch_size
    loader = split.loader(batch_size=batch_size, shuffle=True, flip=flip, drop_last=whole, generator=generator)
    total = epochs * len(loader)
    warmup = max(1, total // 20)

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 1.0) * (1 + math.cos(math.pi * step / max(1, total))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(stepper, factor)
    device = next(model.parameters()).device
    losses = []
    model.train()
    for epoch in range(1, epochs + 1):
        running = torch.zeros((), device=device)
        for x, y, _ in loader:
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
            stepper.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            stepper.step()
            schedule.step()
            running += loss.detach()
        losses.append(float(running) / len(loader))
        if after_epoch is not None:
            after_epoch(epoch, losses[-1])
    return losses
