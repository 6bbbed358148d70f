"""What is pruned: a data set with a constraint, and a dense model trained on it (once per seed, kept in a file)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairprune_plugin import Constraint
from fairprune_plugin.fairness.constraints import CONSTRAINTS

from .models import SmallMobileNetV2, pruning_arguments, small_vit

_EXAMPLES = str(Path(__file__).resolve().parents[2] / "examples")
if _EXAMPLES not in sys.path:
    sys.path.insert(0, _EXAMPLES)

from census.data import load_census  # noqa: E402  (needs the path above)
from census.network import mlp  # noqa: E402
from census.network import train as train_census  # noqa: E402
from faces import ResNet10, load_faces  # noqa: E402
from faces import train as train_faces  # noqa: E402

BATCH = 128
TRAIN_PART = 4000  # training images on which rates are reported: no more than the other splits have
DENSE_EPOCHS = {"celeba": 5, "lfw": 12, "fairface": 12}
DENSE_OPTIMIZER = {"resnet10": ("sgd", 0.1), "mobilenetv2": ("sgd", 0.1), "vit": ("adamw", 1e-3)}


@dataclass(frozen=True)
class Setting:
    """A question: which data, which constraint, which network.

    Attributes:
        data: ``"celeba"``, ``"fairface"``, ``"lfw"`` or ``"census"``.
        target: Attribute that is predicted.
        sensitive: Attribute that makes the groups.
        constraint: A name of :data:`fairprune_plugin.fairness.constraints.CONSTRAINTS`.
        tolerance: Of the constraint.
        network: ``"resnet10"``, ``"mobilenetv2"``, ``"vit"`` or ``"mlp"``.
        width: First-stage channels of a ResNet10, multiplier of a MobileNetV2, hidden size of a ViT; 0: as it is.
    """

    data: str
    target: str
    sensitive: str
    constraint: str
    tolerance: float
    network: str = "resnet10"
    width: float = 8

    @property
    def title(self) -> str:
        """For tables and pictures."""
        constraint = self.constraint.replace("_", " ")
        return f"{self.data} {self.target} by {self.sensitive}, {self.network}, {constraint} ≤ {self.tolerance:g}"


SETTINGS = {
    "smiling": Setting("celeba", "Smiling", "Male", "equal_opportunity", 0.03),
    "wavy": Setting("celeba", "Wavy_Hair", "Male", "degradation_parity", 0.02),
    "bags": Setting("celeba", "Bags_Under_Eyes", "Male", "degradation_parity", 0.02),
    "blond": Setting(
        "celeba", "Blond_Hair", "Male", "degradation_parity", 0.01
    ),  # 16 blond men in test: no rate of theirs
    "race": Setting("fairface", "gender", "race", "accuracy_parity", 0.1),
    "race_gender": Setting("fairface", "gender", "race_x_gender", "accuracy_parity", 0.2),
    "lfw": Setting("lfw", "Smiling", "Male", "accuracy_parity", 0.03),
    "census": Setting("census", "income", "gender", "equal_opportunity", 0.02, "mlp", 0),
}


def tolerance_factor(setting: Setting) -> float:
    """How many times the usual tolerance of its question a setting has; 1 for a question that is not in :data:`SETTINGS`."""
    asked = attrgetter("data", "target", "sensitive", "constraint")
    return next(
        (setting.tolerance / usual.tolerance for usual in SETTINGS.values() if asked(usual) == asked(setting)), 1.0
    )


def on_network(setting: Setting, network: str, width: float) -> Setting:
    """The same question to another network."""
    return replace(setting, network=network, width=width)


@dataclass(frozen=True)
class Problem:
    """A trained dense model and its data.

    Attributes:
        setting: What was asked for.
        seed: Of initialisation, data order and flips.
        dense: Trained; everybody works on a copy.
        example: Two inputs.
        arguments: Of ``BiFPPruner``: which layers stay, as a function of the model (a copy has layers of its own).
        constraint: Judges every method and constrains those that know it.
        training: ``seed → loader`` of training batches.
        splits: Evaluation loaders ``train`` (a part), ``validation`` and ``test``.
        weight_decay: Of every optimizer.
    """

    setting: Setting
    seed: int
    dense: nn.Module
    example: Tensor
    arguments: Callable[[nn.Module], dict[str, Any]]
    constraint: Constraint
    training: Callable[[int], Any]
    splits: dict[str, Any]
    weight_decay: float

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups."""
        return self.constraint.group_spec.names


def load_problem(setting: Setting, seed: int, *, faces: Path | None, cache_folder: Path) -> Problem:
    """Data and dense model of a setting.

    Args:
        setting: Which.
        seed: Of initialisation and order; for census also of the split.
        faces: Folder that holds ``celeba/``, ``fairface/`` or ``lfw/``.
        cache_folder: Where dense models are kept.

    Raises:
        ValueError: For a face data set without a folder.
    """
    if setting.data == "census":
        return _census(setting, seed, cache_folder)
    if faces is None:
        raise ValueError(f"{setting.title} needs --faces FOLDER with {setting.data}/ in it")
    splits = _faces(setting.data, str(faces), setting.target, setting.sensitive)
    torch.manual_seed(seed)
    dense = _network(setting, len(splits["train"].class_names))
    optimizer, rate = DENSE_OPTIMIZER[setting.network]
    _trained(
        dense,
        setting,
        seed,
        cache_folder,
        lambda: train_faces(
            dense, splits["train"], epochs=DENSE_EPOCHS[setting.data], optimizer=optimizer, lr=rate, seed=seed
        ),
    )

    def training(order: int) -> Any:
        generator = torch.Generator().manual_seed(order)
        return splits["train"].loader(batch_size=BATCH, shuffle=True, flip=True, drop_last=True, generator=generator)

    part = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(0))[:TRAIN_PART]
    judged = {"train": splits["train"].subset(part), "validation": splits["val"], "test": splits["test"]}
    return Problem(
        setting=setting,
        seed=seed,
        dense=dense,
        example=splits["test"].batch(slice(0, 2))[0],
        arguments=_arguments,
        constraint=CONSTRAINTS[setting.constraint](tolerance=setting.tolerance, groups=splits["train"].group_names),
        training=training,
        splits={name: split.loader(batch_size=512) for name, split in judged.items()},
        weight_decay=5e-4,
    )


def _census(setting: Setting, seed: int, cache_folder: Path) -> Problem:
    census = load_census(sensitive=setting.sensitive, seed=seed)
    torch.manual_seed(seed)
    dense = mlp(census.num_features)
    _trained(
        dense, setting, seed, cache_folder, lambda: train_census(dense, census.train, steps=600, lr=0.05, seed=seed)
    )
    splits = {"train": census.train, "validation": census.validation, "test": census.test}
    return Problem(
        setting=setting,
        seed=seed,
        dense=dense,
        example=census.train.x[:2],
        arguments=pruning_arguments,
        constraint=CONSTRAINTS[setting.constraint](tolerance=setting.tolerance, groups=census.group_names),
        training=lambda order: census.train.loader(256, shuffle=True, seed=order),
        splits={name: list(split.loader(4096, shuffle=False)) for name, split in splits.items()},
        weight_decay=1e-4,
    )


@cache
def _faces(data: str, folder: str, target: str, sensitive: str) -> Any:
    return load_faces(data, Path(folder) / data, target=target, sensitive=sensitive)


def _network(setting: Setting, classes: int) -> nn.Module:
    model: nn.Module
    if setting.network == "resnet10":
        model = ResNet10(num_classes=classes, width=int(setting.width), stem_stride=2)
    elif setting.network == "mobilenetv2":
        model = SmallMobileNetV2(num_classes=classes, width=setting.width)
    else:
        return _LogitsOnly(small_vit(num_classes=classes, hidden=int(setting.width)))
    return model.to(memory_format=torch.channels_last)


class _LogitsOnly(nn.Module):
    """A Hugging Face classifier whose output is the logits themselves, as the training loops here read it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x).logits
        return logits


def _arguments(model: nn.Module) -> dict[str, Any]:
    if not isinstance(model, _LogitsOnly):
        return pruning_arguments(model)
    arguments = pruning_arguments(model.inner)
    del arguments["output_transform"]  # the wrapper's output is a tensor already
    return arguments


def _trained(dense: nn.Module, setting: Setting, seed: int, folder: Path, train: Callable[[], Any]) -> None:
    """Loads the weights of an earlier call, or trains and keeps them."""
    question = asdict(setting)
    name = "-".join(str(question[key]) for key in ("data", "target", "sensitive", "network", "width"))
    path = folder / f"{name}-{seed}.pt"
    if path.exists():
        dense.load_state_dict(torch.load(path, weights_only=True))
        return
    train()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dense.state_dict(), path)
