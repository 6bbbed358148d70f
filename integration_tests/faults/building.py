"""Wrong arguments, known before any training."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from driving import SmallMLP, example_of
from fairprune_plugin import (
    BiLevelConfig,
    DemographicParity,
    EqualOpportunity,
    LossParity,
    MultiplierConfig,
    PrunerConfig,
    Rate,
    RateParity,
    build_pruner,
    schedules,
)
from fairprune_plugin.errors import ConfigError, FairPruneWarning, UnsupportedModelError

from .case import STEPS, UNTOUCHED, Left, Scene, in_section

# ---- constraints -------------------------------------------------------------------------------------------

add = in_section("Constraints and settings")
add("a tolerance of 5 (percentage points)", ConfigError, "a tolerance in [0, 1], got 5", lambda _: EqualOpportunity(5))
add("a tolerance of NaN, or a text", ConfigError, "got nan", lambda _: EqualOpportunity(math.nan))
add("one group", ConfigError, "one group alone has no gap", lambda _: EqualOpportunity(0.1, groups=1))
add("the number of samples as the number of groups", ConfigError, "at most 1000000", lambda _: LossParity(1, 10**9))
add("two groups of one name", ConfigError, "distinct group names", lambda _: EqualOpportunity(0.1, ["a", "a"]))
add("group names 1 and 01", ConfigError, "different 64-bit ids", lambda _: EqualOpportunity(0.1, ["1", "01"]))
add("a reference that is no group", ConfigError, "unknown reference", lambda _: EqualOpportunity(0.1, reference="all"))
add("an unknown surrogate", ConfigError, "choose one of sigmoid", lambda _: EqualOpportunity(0.1, surrogate="relu"))
add("a negative class", ConfigError, "positive as a whole number ≥ 0", lambda _: EqualOpportunity(0.1, positive=-1))
add(
    "a macro average of one class",
    ConfigError,
    "without positive",
    lambda _: EqualOpportunity(0.1, positive=1, average="macro"),
)
add("a floor above 1", ConfigError, "a floor in [0, 1]", lambda _: EqualOpportunity(0.1, floor=2.0))
add(
    "a rate of one's own without a surrogate",
    ConfigError,
    "needs a surrogate",
    lambda _: Rate(lambda out: out.targets == 1),
)
add("RateParity without a rate", ConfigError, "expected rate=Rate(", lambda _: RateParity(0.1))
add("a warm-up after the ramp", ConfigError, "0 ≤ warmup < ramp_end ≤ 1", lambda _: BiLevelConfig(warmup=0.6))
add('`joint="no"`', ConfigError, "joint as True or False", lambda _: BiLevelConfig(joint="no"))
add("half a weight step", ConfigError, "as a whole number ≥ 0", lambda _: BiLevelConfig(weight_steps_per_mask_step=0.5))
add("a multiplier step of zero", ConfigError, "lr > 0 for the multipliers", lambda _: MultiplierConfig(lr=0))
add(
    "an unknown key in a config",
    ConfigError,
    "unknown key 'learning_rate'",
    lambda _: MultiplierConfig.from_dict({"learning_rate": 1}),
)
add("a list instead of settings", ConfigError, "as a mapping of settings", lambda _: BiLevelConfig.from_dict([1]))
add("a config file that is no JSON or YAML", ConfigError, "as JSON or YAML", lambda _: PrunerConfig.from_text("{a: ["))
add(
    "a constraint by its bare name",
    ConfigError,
    "needs a tolerance",
    lambda _: PrunerConfig(constraint="accuracy_parity"),
)
add(
    "an unknown constraint in a file",
    ConfigError,
    "unknown constraint 'equality'",
    lambda _: PrunerConfig(constraint={"name": "equality"}),
)
add("a ratio of 2 for a schedule", ConfigError, "a ratio in [0, 1], got 2", lambda _: schedules.cubic(2, 4))


def _numpy_numbers(scene: Scene) -> None:
    constraint = EqualOpportunity(np.float64(0.1), groups=np.int64(2))
    assert type(constraint.tolerance) is float
    assert type(BiLevelConfig(warmup=np.float32(0.1)).warmup) is float
    assert constraint.group_names == ("0", "1")


add("NumPy numbers, of a sweep", None, "", _numpy_numbers, left=Left("they are read as Python's own", lambda *_: None))

# ---- the pruner ---------------------------------------------------------------------------------------------

add = in_section("Building a pruner", UNTOUCHED)
add(
    "something that is no model",
    ConfigError,
    "an nn.Module to prune, got str",
    lambda scene: scene.build(model="resnet18"),
)
add(
    "inputs of another width",
    ConfigError,
    "the model cannot run on example_inputs=(4, 5)",
    lambda scene: scene.build(example_inputs=torch.randn(4, 5)),
)
add(
    "inputs on another device",
    ConfigError,
    "on the model's device",
    lambda scene: scene.build(example_inputs=torch.empty(4, 6, device="meta")),
)
add(
    "no example inputs",
    ConfigError,
    "cannot run on example_inputs=None",
    lambda scene: scene.build(example_inputs=None),
)
add("a ratio of 1", ConfigError, "[0, 1), the share that is removed", lambda scene: scene.build(pruning_ratio=1.0))
add(
    "an argument that nobody knows", ConfigError, "unknown argument 'sparsity'", lambda scene: scene.build(sparsity=0.5)
)
add(
    "an unknown target",
    ConfigError,
    "choose one of channels, params, macs",
    lambda scene: scene.build(target="latency"),
)
add(
    "the name of a layer to ignore",
    ConfigError,
    "pass the layers themselves",
    lambda scene: scene.build(ignored_layers=["head"]),
)
add(
    "a layer of a copy of the model to ignore",
    ConfigError,
    "not part of this model",
    lambda scene: scene.build(ignored_layers=[copy.deepcopy(scene.model).head]),
)
add(
    "a `forward_fn` with a model of its own",
    UnsupportedModelError,
    "to call the model that it is given",
    lambda scene: scene.build(forward_fn=lambda _, inputs: scene.model(inputs), self_check=True),
)
add(
    "ratios of layers by their names",
    ConfigError,
    "layers of the model as the keys of pruning_ratio_dict",
    lambda scene: scene.build(pruning_ratio_dict={"fc1": 0.5}),
)
add("a list of heads", ConfigError, "num_heads as a mapping from layer", lambda scene: scene.build(num_heads=[4]))
add(
    '`global_pruning="false"` out of a file',
    ConfigError,
    "global_pruning as True or False",
    lambda scene: scene.build(global_pruning="false"),
)
add(
    "a scheduler of the wrong length",
    ConfigError,
    "to return 3 ratios",
    lambda scene: scene.build(iterative_steps=2, iterative_pruning_ratio_scheduler=lambda r, n: [r]),
)
add(
    "an importance with a score too few",
    ConfigError,
    "16 finite scores, one per channel",
    lambda scene: scene.build(importance=lambda group: torch.ones(3)),
)
add(
    "an importance with NaN",
    ConfigError,
    "finite scores",
    lambda scene: scene.build(importance=lambda group: torch.full((len(group[0].idxs),), torch.nan)),
)
add("a number as constraint", ConfigError, "expected a constraint such as", lambda scene: scene.build(constraint=0.05))
add(
    "the class of a constraint, not one of it",
    ConfigError,
    "expected a constraint such as",
    lambda scene: scene.build(constraint=DemographicParity),
)
add(
    "no step to train", ConfigError, "positive whole number of training steps", lambda scene: scene.build(total_steps=0)
)
add(
    "a size budget that the floors do not leave room for",
    ConfigError,
    "every layer at its floor",
    lambda scene: scene.build(target="params", pruning_ratio=0.99),
)
add(
    "everything ignored",
    ConfigError,
    "no layer is left to prune",
    lambda scene: scene.build(ignored_layers=[scene.model]),
)
add("a model in half precision", ConfigError, "in half precision", lambda scene: scene.build(model=SmallMLP().half()))
add(
    "a data-parallel wrapper",
    ConfigError,
    "pass model.module",
    lambda scene: scene.build(model=nn.DataParallel(scene.model)),
)


def _tied(scene: Scene) -> None:
    model = SmallMLP()
    model.other = nn.Linear(16, 6)
    model.other.weight = model.fc1.weight
    scene.build(model=model, ignored_layers=[model.head])


class Softmaxed(SmallMLP):
    """The softmax runs over features that are to be pruned."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.softmax(self.fc2(torch.relu(self.fc1(x))), dim=1))


def _softmax(scene: Scene) -> None:
    model = Softmaxed()
    scene.build(model=model, ignored_layers=[model.head], self_check=True)


def _freeze(scene: Scene) -> None:
    scene.model.fc1.requires_grad_(False)


class Branched(SmallMLP):
    """Some of the logits come straight from the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.beside(x)


def _weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, for the parametrization
        weight_norm(layer)


for what, cure, computed in (
    (
        "`parametrizations.weight_norm` on a layer that loses channels",
        'torch.nn.utils.parametrize.remove_parametrizations(model.fc1, "weight")',
        parametrizations.weight_norm,
    ),
    (
        "`parametrizations.spectral_norm` or `orthogonal` on it",
        'torch.nn.utils.parametrize.remove_parametrizations(model.fc1, "weight")',
        parametrizations.orthogonal,
    ),
    ("the older `weight_norm` on any layer", 'torch.nn.utils.remove_weight_norm(model.fc1, "weight")', _weight_norm),
    (
        "masks of `torch.nn.utils.prune` on any layer",
        'torch.nn.utils.prune.remove(model.fc1, "weight")',
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ),
):
    add(
        what,
        UnsupportedModelError,
        cure,
        lambda scene: scene.build(),
        prepare=lambda scene, computed=computed: computed(scene.model.fc1),
    )


def _parametrized_beside(scene: Scene) -> None:
    model = Branched()
    parametrizations.weight_norm(model.beside)
    scene.model = model
    scene.build(ignored_layers=[model.head, model.beside], self_check=True)
    scene.train(STEPS)
    scene.pruner.step()
    assert scene.model.fc1.out_features == 8


add(
    "a parametrized layer in `ignored_layers` that keeps all its inputs and outputs",
    None,
    "",
    _parametrized_beside,
    left=Left("it is trained as it is", lambda *_: None),
)


class TwoHeads(SmallMLP):
    """A second head beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> Any:
        h = self.fc2(torch.relu(self.bn1(self.fc1(x)))).relu()
        return self.head(h), self.aux(h)


def _one_head(scene: Scene) -> None:
    model = TwoHeads()
    scene.build(model=model, ignored_layers=[model.head], forward_fn=lambda model, x: model(x)[0], self_check=True)


add(
    "several heads, of which `forward_fn` returns one",
    UnsupportedModelError,
    "Let forward_fn of the pruner return all outputs",
    _one_head,
)


class LazyBeside(SmallMLP):
    """A lazy layer that no forward pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.LazyLinear(2)


add(
    "a lazy layer that the forward pass does not reach",
    ConfigError,
    "does not reach it, so take it out of the model",
    lambda scene: scene.build(model=LazyBeside(), ignored_layers=[]),
)
add("tied weights whose channels would go", UnsupportedModelError, "one shared parameter", _tied)
add("a softmax over features that shall be pruned", UnsupportedModelError, "a softmax over pruned features", _softmax)
add(
    "frozen layers",
    FairPruneWarning,
    "they are not trained",
    lambda scene: scene.build(),
    prepare=_freeze,
    left=Left("their channels can be removed", lambda *_: None),
)
add(
    "an output layer that is not ignored",
    FairPruneWarning,
    "are the model's outputs",
    lambda scene: scene.build(ignored_layers=None),
    left=Left("it is protected", lambda scene, _: None),
)
add(
    "an unknown pruner in `build_pruner`",
    ConfigError,
    "unknown pruner 'bip'",
    lambda scene: build_pruner("bip", scene.model, example_of(scene.model)),
)
add(
    "an unknown host",
    ConfigError,
    "choose one of torch_pruning, nni",
    lambda scene: build_pruner("bifp", scene.model, host="keras"),
)
add(
    "settings without a pruner's name",
    ConfigError,
    "a mapping with a 'name'",
    lambda scene: build_pruner({"pruning_ratio": 0.5}, scene.model),
)
add(
    "a ratio as text in a config file",
    ConfigError,
    "[0, 1), the share that is removed, got '0.5'",
    lambda scene: build_pruner({"name": "bifp", "pruning_ratio": "0.5"}, scene.model, example_of(scene.model)),
)
