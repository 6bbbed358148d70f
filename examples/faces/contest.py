"""The contest of ``prune_faces.py``: one dense model, pruned in several ways with the same number of passes."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

from fairprune_plugin import Constraint
from fairprune_plugin.engine.measure.evaluate import evaluate
from fairprune_plugin.fairness.lagrangian import Lagrangian
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.size.macs import count

from .dataset import FaceLoader, FaceSplit

METHODS = ("dense", "magnitude", "magnitude+constraint", "bifp")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What every method gets alike.

    Attributes:
        pruning_ratio: Share of the budget's unit that goes.
        target: ``"channels"``, ``"params"`` or ``"macs"``: what the ratio of the BiFP run is a share of.
        steps: Forward-backward passes after the dense training.
        batch_size: Images per step.
        lr: Peak learning rate of the cosine schedule.
        seed: Of batch order and flips.
    """

    pruning_ratio: float
    target: str
    steps: int
    batch_size: int
    lr: float
    seed: int

    def loader(self, split: FaceSplit) -> FaceLoader:
        """Shuffled, flipped training batches; the order depends on the seed alone."""
        generator = torch.Generator().manual_seed(self.seed)
        return split.loader(batch_size=self.batch_size, shuffle=True, flip=True, drop_last=True, generator=generator)

    def optimizer(self, model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
        """SGD with momentum and a cosine schedule over the steps."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)


def run_method(
    method: str,
    dense: nn.Module,
    output_layer: str,
    splits: dict[str, FaceSplit],
    constraint: Constraint,
    tuning: Tuning,
) -> dict[str, Any]:
    """Prunes a copy of the dense model and measures it on the test split.

    Args:
        method: One of :data:`METHODS`.
        dense: Trained; left as it is.
        output_layer: Name of the layer that must keep its width.
        splits: ``train``, ``val`` and ``test``.
        constraint: Judges every method, constrains those that know it.
        tuning: The common settings.
    """
    begin = time.perf_counter()
    model = copy.deepcopy(dense)
    example = splits["test"].batch(slice(0, 2))[0]
    if method.startswith("magnitude"):
        _prune_by_magnitude(model, output_layer, example, tuning.pruning_ratio)
    if method == "magnitude":
        _fine_tune(model, splits["train"], tuning)
    feasible = None
    if method in ("bifp", "magnitude+constraint"):
        feasible = _fit(method, model, output_layer, example, splits, constraint, tuning)
    lagrangian = Lagrangian(constraint)
    loader = splits["test"].loader(batch_size=512)
    evaluate(dense, loader, lagrangian, split="test", dense=True)
    test = evaluate(model, loader, lagrangian, split="test")
    macs, params = count(model, example)
    return {
        "method": method,
        "pruning_ratio": tuning.pruning_ratio,
        "target": tuning.target,
        "constraint": constraint.to_dict(),
        "seed": tuning.seed,
        "feasible_on_validation": feasible,
        "test": test.to_dict(),
        "params": params,
        "macs": macs,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def _prune_by_magnitude(model: nn.Module, output_layer: str, example: torch.Tensor, ratio: float) -> None:
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule(output_layer)],
        # Fresh dictionaries: the host's defaults are shared between pruners.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()


def _fine_tune(model: nn.Module, split: FaceSplit, tuning: Tuning) -> None:
    model.train()
    optimizer, schedule = tuning.optimizer(model)
    done = 0
    loader = tuning.loader(split)
    while done < tuning.steps:
        for x, y, _ in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done == tuning.steps:
                return


def _fit(
    method: str,
    model: nn.Module,
    output_layer: str,
    example: torch.Tensor,
    splits: dict[str, FaceSplit],
    constraint: Constraint,
    tuning: Tuning,
) -> bool:
    """BiFP; or, with a ratio of 0 on an already pruned model, the same constraint without a learned mask."""
    pruner = BiFPPruner(
        model,
        example,
        pruning_ratio=tuning.pruning_ratio if method == "bifp" else 0.0,
        target=tuning.target,
        ignored_layers=[model.get_submodule(output_layer)],
        constraint=constraint,
        total_steps=tuning.steps,
    )
    optimizer, schedule = tuning.optimizer(model)
    result = pruner.fit(
        tuning.loader(splits["train"]),
        optimizer,
        validation=splits["val"].loader(batch_size=256),
        lr_scheduler=schedule,
        progress=False,
    )
    return result.feasible
