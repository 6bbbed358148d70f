"""What a user asks for: a notion of fairness, a tolerance and the groups it is about."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import ConfigError
from . import rates
from .parity import OVERALL, PAIRWISE
from .rates import Rate
from .surrogates import SURROGATES


@dataclass(frozen=True)
class Constraint:
    """Base of all notions: rates that may differ between groups by at most ``tolerance``.

    Attributes:
        tolerance: Largest allowed gap, in [0, 1].
        groups: Number of groups ``G ≥ 2``, or their names; sample ``i`` belongs to group ``s[i]``.
        reference: What a group is compared with. ``"pairwise"`` (default): the gap is the difference between
            the best and the worst group (Fairlearn's *difference*, Definition 1 of the BiFP paper).
            ``"overall"``: each group's distance from everybody's rate. A group's name or id: distance from it.
        surrogate: ``"sigmoid"``, ``"logistic"``, ``"hinge"``, ``"linear"`` or ``"probability"``.
        positive: Multi-class only: the one class whose rates are constrained; default every class. In a
            binary task the rates are those of class 1 unless this is 0.

    Raises:
        ConfigError: For a tolerance outside [0, 1], fewer than two groups, or an unknown name.
    """

    tolerance: float
    groups: int | Sequence[str] = 2
    reference: str | int = PAIRWISE
    surrogate: str = "sigmoid"
    positive: int | None = None

    name: ClassVar[str] = ""
    per_class: ClassVar[bool] = True
    relative_to_dense: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int | float):
            raise ConfigError(f"expected the tolerance as a number in [0, 1], got {self.tolerance!r}")
        if math.isnan(self.tolerance) or not 0 <= self.tolerance <= 1:
            raise ConfigError(
                f"expected a tolerance in [0, 1], got {self.tolerance}: it is a difference of rates, "
                "0.02 means two percentage points"
            )
        countable = isinstance(self.groups, int | Sequence) and not isinstance(self.groups, str)
        if not countable or (isinstance(self.groups, int) and self.groups < 2):
            raise ConfigError(
                f"expected at least two groups (their number or their names), got {self.groups!r}: one group "
                "alone has no gap"
            )
        if not isinstance(self.groups, int):
            object.__setattr__(self, "groups", tuple(str(group) for group in self.groups))
            if len(self.group_names) < 2 or len(set(self.group_names)) < len(self.group_names):
                raise ConfigError(f"expected at least two distinct group names, got {self.group_names}")
        if self.surrogate not in SURROGATES:
            raise ConfigError(f"unknown surrogate {self.surrogate!r}: choose one of {', '.join(SURROGATES)}")
        if self.positive is not None and self.positive < 0:
            raise ConfigError(f"expected the positive class as an id ≥ 0, got {self.positive}")
        self.reference_key  # noqa: B018 - resolves the name now, so that a wrong one fails before training

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the ``G`` groups; ``"0" … "G−1"`` when only their number was given."""
        if isinstance(self.groups, int):
            return tuple(str(i) for i in range(self.groups))
        return tuple(self.groups)

    @property
    def num_groups(self) -> int:
        return len(self.group_names)

    @property
    def reference_key(self) -> str | int:
        """The reference as :mod:`.parity` wants it: a keyword or a group id."""
        if self.reference in (OVERALL, PAIRWISE):
            return self.reference
        named = isinstance(self.reference, int) and not isinstance(self.reference, bool)
        if named and 0 <= int(self.reference) < self.num_groups:
            return int(self.reference)
        if self.reference in self.group_names:
            return self.group_names.index(str(self.reference))
        raise ConfigError(
            f"unknown reference {self.reference!r}: choose 'pairwise', 'overall' or one of the groups "
            f"{', '.join(self.group_names)}"
        )

    def rates(self, num_classes: int) -> list[Rate]:
        """The rates that must agree across groups, for a task with that many classes.

        Raises:
            ConfigError: If ``positive`` is not one of the classes.
        """
        if not self.per_class:
            return self._rates_of(-1)
        if self.positive is not None and self.positive >= num_classes:
            raise ConfigError(f"the positive class is {self.positive} but the logits have {num_classes} classes")
        if self.positive is not None:
            return self._rates_of(self.positive)
        classes = [1] if num_classes == 2 else range(num_classes)
        return [rate for cls in classes for rate in self._rates_of(cls)]

    def _rates_of(self, cls: int) -> list[Rate]:
        raise ConfigError("Constraint is abstract: use one of its notions, for example EqualOpportunity")

    def to_dict(self) -> dict[str, Any]:
        """``{"name": …, …}`` with the fields that differ from their defaults; JSON- and YAML-safe."""
        out: dict[str, Any] = {"name": self.name}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                out[field.name] = list(value) if isinstance(value, tuple) else value
        return out


@dataclass(frozen=True)
class AccuracyParity(Constraint):
    """|A(f, D_g) − A(f, D_h)| ≤ τ: performance fairness (BiFP, Definition 1)."""

    name: ClassVar[str] = "accuracy_parity"
    per_class: ClassVar[bool] = False

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.accuracy()]


@dataclass(frozen=True)
class DegradationParity(AccuracyParity):
    """|R_g − R_h| ≤ τ with R_g = A(dense, D_g) − A(pruned, D_g): pruning hurts no group more than another.

    (BiFP, Definitions 2 and 3.) The dense accuracies are taken once per split, before training: ``fit`` does
    it by itself, an own loop calls ``pruner.measure_dense(loader)``.
    """

    name: ClassVar[str] = "degradation_parity"
    relative_to_dense: ClassVar[bool] = True


@dataclass(frozen=True)
class DemographicParity(Constraint):
    """|P(ŷ = c | g) − P(ŷ = c | h)| ≤ τ: equal selection rates (statistical parity)."""

    name: ClassVar[str] = "demographic_parity"

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.selection_rate(cls)]


@dataclass(frozen=True)
class EqualOpportunity(Constraint):
    """|P(ŷ = c | y = c, g) − P(ŷ = c | y = c, h)| ≤ τ: equal true positive rates (Hardt et al., NIPS 2016)."""

    name: ClassVar[str] = "equal_opportunity"

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.true_positive_rate(cls)]


@dataclass(frozen=True)
class EqualizedOdds(Constraint):
    """Equal true *and* false positive rates, each within τ (Hardt et al., NIPS 2016)."""

    name: ClassVar[str] = "equalized_odds"

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.true_positive_rate(cls), rates.false_positive_rate(cls)]


CONSTRAINTS: dict[str, type[Constraint]] = {
    cls.name: cls for cls in (AccuracyParity, DegradationParity, DemographicParity, EqualOpportunity, EqualizedOdds)
}


def constraint_from(spec: Constraint | dict[str, Any] | str | None) -> Constraint | None:
    """A constraint from its ``to_dict`` form; constraints and ``None`` pass through.

    Raises:
        ConfigError: For an unknown name or key (the choices are listed) or a missing tolerance.
    """
    if spec is None or isinstance(spec, Constraint):
        return spec
    if isinstance(spec, str):
        raise ConfigError(
            f"a constraint needs a tolerance: write {{'name': {spec!r}, 'tolerance': 0.02}} instead of {spec!r}"
        )
    options = dict(spec)
    name = options.pop("name", None)
    if name not in CONSTRAINTS:
        raise ConfigError(f"unknown constraint {name!r}: choose one of {', '.join(CONSTRAINTS)}")
    cls = CONSTRAINTS[name]
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r} for constraint {name!r}: choose from {', '.join(known)}")
    if "tolerance" not in options:
        raise ConfigError(f"constraint {name!r} needs a tolerance, for example 'tolerance': 0.02")
    return cls(**options)
