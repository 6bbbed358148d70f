"""What a trial can be told: NNI's search space, and the defaults of everything else."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.constraints import CONSTRAINTS

# NNI's format (https://nni.readthedocs.io/en/stable/hpo/search_space.html); keys are fields of Settings.
SEARCH_SPACE: dict[str, dict[str, Any]] = {
    "pruner": {"_type": "choice", "_value": ["bifp", "l1", "taylor", "fpgm"]},
    "sparsity": {"_type": "uniform", "_value": [0.5, 0.9]},
    "tolerance": {"_type": "uniform", "_value": [0.005, 0.05]},
    "learning_rate": {"_type": "loguniform", "_value": [0.005, 0.1]},
    "multiplier_rate": {"_type": "loguniform", "_value": [0.01, 0.1]},
}


PRUNERS = ("bifp", "l1", "l2", "taylor", "fpgm")


@dataclass(frozen=True)
class Settings:
    """Parameters of a trial.

    Attributes:
        pruner: Name for ``build_pruner(…, host="nni")``, or a mapping with a ``"name"`` (``"_name"`` in a nested search
            space of NNI) whose other keys win over the fields below (``{"name": "bifp", "bilevel": {…}}``).
        sparsity: Share of the channels that goes.
        tolerance: Gap that BiFP aims at while it trains. Below ``required_tolerance``, because a gap is larger on data
            that have not driven the multipliers.
        learning_rate: Of the weights, while pruning and tuning; a cosine takes it to 0.
        multiplier_rate: Of BiFP's multipliers, per step.
        constraint: ``"demographic_parity"``, … (see ``fairprune_plugin``); what is judged, and what BiFP aims at.
        required_tolerance: Largest gap of a feasible trial, on validation data. The same for all trials of an
            experiment: searched over, the largest value would always win.
        steps: Forward-backward passes of pruning and tuning together, the same for every pruner.
        dense_steps: Of the dense model before.
        evaluate_every: Steps between intermediate results.
        batch_size: Samples per step.
        data: ``"census"``, or a face data set of ``examples/faces`` (``"celeba"``, ``"fairface"``, …).
        root: Folder of the face data; not needed for the census.
        target: Attribute to predict from faces.
        sensitive: Attribute that makes the groups.
        limit: Largest number of images per split.
        seed: Of data order and initial weights.

    Raises:
        ConfigError: For an unknown name or a number out of range.
    """

    pruner: str | Mapping[str, Any] = "bifp"
    sparsity: float = 0.7
    tolerance: float = 0.02
    learning_rate: float = 0.02
    multiplier_rate: float = 0.05
    constraint: str = "demographic_parity"
    required_tolerance: float = 0.05
    steps: int = 300
    dense_steps: int = 300
    evaluate_every: int = 50
    batch_size: int = 256
    data: str = "census"
    root: str | None = None
    target: str = "Smiling"
    sensitive: str = "gender"
    limit: int | None = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("sparsity", "tolerance", "required_tolerance", "learning_rate", "multiplier_rate"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"expected {key} as a number, got {value!r}")
        if not 0 < self.sparsity < 1:
            raise ConfigError(f"expected sparsity in (0, 1), the share of channels that goes, got {self.sparsity!r}")
        for key in ("tolerance", "required_tolerance"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"expected {key} in [0, 1], got {getattr(self, key)!r}")
        for key in ("learning_rate", "multiplier_rate"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"expected {key} > 0, got {getattr(self, key)!r}")
        for key in ("steps", "dense_steps", "evaluate_every", "batch_size"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ConfigError(f"expected {key} as a whole number of at least 1, got {getattr(self, key)!r}")
        if isinstance(self.pruner, Mapping) and not {"name", "_name"} & set(self.pruner):
            raise ConfigError(f"expected the pruner as a name or a mapping with a 'name', got {dict(self.pruner)!r}")
        if self.name not in PRUNERS:
            raise ConfigError(f"unknown pruner {self.name!r}: this trial knows {', '.join(PRUNERS)}")
        if self.constraint not in CONSTRAINTS:
            raise ConfigError(f"unknown constraint {self.constraint!r}: choose from {', '.join(sorted(CONSTRAINTS))}")

    @classmethod
    def merge(cls, *layers: Mapping[str, Any]) -> Settings:
        """The defaults, overwritten by each mapping in turn (fixed values, then those of the tuner)."""
        values = {key: value for layer in layers for key, value in layer.items()}
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown parameter {unknown[0]!r}: choose from {', '.join(known)}")
        return cls(**values)

    @property
    def name(self) -> str:
        """The pruner's name."""
        return self.pruner if isinstance(self.pruner, str) else str(self.pruner.get("name", self.pruner.get("_name")))

    def spec(self, group_names: Sequence[str]) -> dict[str, Any]:
        """The pruner as ``build_pruner`` takes it; only BiFP knows a constraint, and for which groups."""
        spec: dict[str, Any] = {"name": self.name, "pruning_ratio": self.sparsity}
        if self.name == "bifp":
            groups = list(group_names)
            spec["constraint"] = {"name": self.constraint, "tolerance": self.tolerance, "groups": groups}
            spec["multipliers"] = {"lr": self.multiplier_rate}
        given = self.pruner if isinstance(self.pruner, Mapping) else {}
        return {**spec, **{key: value for key, value in given.items() if key != "_name"}}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def pair(text: str) -> tuple[str, Any]:
    """``key=value`` of a command line; a value that is not JSON is a word."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
