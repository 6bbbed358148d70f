"""NNI's own pruners and ours on a small network, and what they give through ``TorchEvaluator``, which needs no patch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import nni
import torch
from nni.compression import TorchEvaluator
from nni.compression.pruning import AGPPruner, L1NormPruner, MovementPruner, TaylorPruner
from torch import Tensor, nn
from torch.nn import functional as F

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.nni import BiFPPruner

LEARNING_RATE, BATCH, STEPS = 0.1, 16, 12
CONFIG = [{"op_types": ["Linear"], "exclude_op_names": ["head"], "sparse_ratio": 0.5}]


def agp_l1(model: nn.Module, evaluator: Any) -> Any:
    """L1 norms, with the sparsity rising while the weights train.

    The evaluator goes to the inner pruner: wrapping makes new parameters, and a traced optimizer that is read only
    afterwards would silently train the unwrapped layers alone.
    """
    return AGPPruner(L1NormPruner(model, CONFIG, evaluator), interval_steps=3, total_times=3)


def taylor(model: nn.Module, evaluator: Any) -> Any:
    """One mask from the gradients of 8 steps."""
    return TaylorPruner(model, CONFIG, evaluator, training_steps=8)


def movement(model: nn.Module, evaluator: Any) -> Any:
    """Scores with an optimizer of their own: it uses ``before`` *and* ``after`` tasks, and the loss."""
    return MovementPruner(model, CONFIG, evaluator, warmup_step=2, cooldown_begin_step=10)


def bifp(model: nn.Module, evaluator: Any) -> Any:
    """Ours: it hooks the model, replaces the loss and works between the backward pass and the update."""
    constraint = EqualOpportunity(tolerance=0.02)
    return BiFPPruner(model, CONFIG, evaluator, constraint=constraint, sensitive=sensitive)


def sensitive(batch: Any) -> Tensor:
    """Group ids of a tuple's third item, or of a mapping's ``"s"``."""
    groups: Tensor = batch["s"] if isinstance(batch, Mapping) else batch[2]
    return groups


PRUNERS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "agp-l1": agp_l1,
    "taylor": taylor,
    "movement": movement,
    "bifp": bifp,
}


class Network(nn.Module):
    """Two hidden layers; the loss is computed inside, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def network() -> Network:
    """The same initial weights every time."""
    torch.manual_seed(0)
    return Network()


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches ``(x, y, s)`` of a learnable problem, in a fixed order."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, BATCH, 6, generator=generator)
    return [(part, (part[:, 0] > part[:, 1]).long(), (part[:, 2] > part[:, 0]).long()) for part in x]


def example() -> Tensor:
    """Inputs for tracing."""
    return batches(1)[0][0]


def compress(pruner: Any) -> dict[str, Any]:
    """The masks of a whole compression."""
    _, masks = pruner.compress() if isinstance(pruner, TaylorPruner) else pruner.compress(STEPS, None)
    pruner.unwrap_model()
    return masks


def reference(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Masks and final weights of a pruner driven by a plain loop."""
    model = network()

    def training(
        bound: nn.Module, optimizer: Any, training_step: Any, _: Any, max_steps: int | None, __: int | None
    ) -> None:
        for batch in batches()[:max_steps]:
            optimizer.zero_grad()
            training_step(batch, bound).backward()
            optimizer.step()

    def training_step(batch: tuple[Tensor, ...], bound: nn.Module) -> Tensor:
        loss: Tensor = bound(batch[0], batch[1])["loss"]
        return loss

    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=LEARNING_RATE)
    evaluator = TorchEvaluator(training, optimizer, training_step, dummy_input=example())
    masks = compress(PRUNERS[name](model, evaluator))
    return masks, copy.deepcopy(model.state_dict())


def assert_same(masks: dict[str, Any], weights: dict[str, Tensor], name: str) -> None:
    """Equal masks, and weights equal up to the order of additions."""
    expected, expected_weights = reference(name)
    assert sparsity(expected) == {"fc1": 0.5, "fc2": 0.5}  # not an empty comparison
    torch.testing.assert_close(masks, expected, rtol=0, atol=0)
    torch.testing.assert_close(weights, expected_weights)


def sparsity(masks: dict[str, Any]) -> dict[str, float]:
    """Share of the weights that each layer loses."""
    return {name: 1 - float(targets["weight"].mean()) for name, targets in masks.items()}


def own_attributes(*owners: Any) -> Iterator[tuple[str, str, int]]:
    """Identity of every attribute that classes and modules hold themselves."""
    for owner in owners:
        for name, value in vars(owner).items():
            if name not in {"__dict__", "__weakref__", "__builtins__"}:
                yield owner.__name__, name, id(value)
