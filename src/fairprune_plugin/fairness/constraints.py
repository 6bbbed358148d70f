"""The notions of fairness a user can ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..checks import one_of, shown
from ..errors import ConfigError
from . import rates
from .constraint import Constraint
from .outputs import Task
from .parity import BELOW, ITSELF, OVERALL, Sides
from .rates import Rate


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
class ExcessAccuracyGap(DegradationParity):
    """R_g − R ≤ τ for every group: no group loses more than τ beyond what everybody loses.

    The excess accuracy gap of CEAG (Hashemizadeh et al., *Balancing Act*, ICLR 2024): one-sided, against the
    overall change, with the loss as surrogate.
    """

    reference: str | int = OVERALL
    surrogate: str = "cross_entropy"

    name: ClassVar[str] = "excess_accuracy_gap"
    sides: ClassVar[Sides] = BELOW


@dataclass(frozen=True)
class AccuracyFloor(DegradationParity):
    """R_g ≤ τ for every group: nobody loses more than τ against the dense model, whatever the others do.

    The guard against levelling down; ``floor=τ`` of any constraint is short for it.
    """

    reference: str | int = ITSELF

    name: ClassVar[str] = "accuracy_floor"
    sides: ClassVar[Sides] = BELOW


@dataclass(frozen=True)
class DemographicParity(Constraint):
    """|P(ŷ = c | g) − P(ŷ = c | h)| ≤ τ: equal selection rates (statistical parity)."""

    name: ClassVar[str] = "demographic_parity"

    def rates(self, task: Task) -> list[Rate]:
        if self.average is not None and task.num_labels is None:
            raise ConfigError(
                f"the selection rates of all {task.num_classes} classes add up to 1, so that their macro average is the "
                f"same for every group whatever the model does: drop average={self.average!r}"
            )
        return super().rates(task)

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.selection_rate(cls)]


@dataclass(frozen=True)
class EqualOpportunity(Constraint):
    """|P(ŷ = c | y = c, g) − P(ŷ = c | y = c, h)| ≤ τ: equal true positive rates (Hardt et al., NIPS 2016)."""

    name: ClassVar[str] = "equal_opportunity"

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.true_positive_rate(cls)]


@dataclass(frozen=True)
class PredictiveEquality(Constraint):
    """|P(ŷ = c | y ≠ c, g) − P(ŷ = c | y ≠ c, h)| ≤ τ: equal false positive rates (Chouldechova, Big Data 2017)."""

    name: ClassVar[str] = "predictive_equality"

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.false_positive_rate(cls)]


@dataclass(frozen=True)
class EqualizedOdds(Constraint):
    """Equal true *and* false positive rates, each within τ (Hardt et al., NIPS 2016)."""

    name: ClassVar[str] = "equalized_odds"

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.true_positive_rate(cls), rates.false_positive_rate(cls)]


@dataclass(frozen=True)
class LossParity(Constraint):
    """|ℓ_g − ℓ| ≤ τ: each group's mean cross entropy within τ nats of everybody's.

    The equalised loss of Tran et al. (*Pruning has a disparate impact on model accuracy*, NeurIPS 2022).
    """

    reference: str | int = OVERALL

    name: ClassVar[str] = "loss_parity"
    per_class: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    def _rates_of(self, cls: int) -> list[Rate]:
        return [rates.mean_loss()]


@dataclass(frozen=True)
class RateParity(Constraint):
    """A user's own rate within τ, for example ``RateParity(0.02, rate=Rate(numerator, event, surrogate=…))``.

    Attributes:
        rate: Sees the whole outputs, of all labels of a multi-label task unless ``label`` names one.
    """

    rate: Rate | None = field(default=None, kw_only=True)

    name: ClassVar[str] = "rate_parity"
    per_class: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rate, Rate):
            raise ConfigError(f"expected rate=Rate(numerator, event, surrogate=…), got {self.rate!r}")

    def rates(self, task: Task) -> list[Rate]:
        assert self.rate is not None
        return [self.rate] if self.label is None else super().rates(task)

    def _rates_of(self, cls: int) -> list[Rate]:
        assert self.rate is not None
        return [self.rate]

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "rate": self.rate.name if self.rate else None}


_NOTIONS: tuple[type[Constraint], ...] = (
    AccuracyParity,
    DegradationParity,
    ExcessAccuracyGap,
    AccuracyFloor,
    DemographicParity,
    EqualOpportunity,
    PredictiveEquality,
    EqualizedOdds,
    LossParity,
    RateParity,
)
CONSTRAINTS: dict[str, type[Constraint]] = {notion.name: notion for notion in _NOTIONS}


def with_floors(constraints: tuple[Constraint, ...]) -> tuple[Constraint, ...]:
    """The constraints, and the accuracy floors that their ``floor`` asks for (the strictest one of the same groups and
    label)."""
    floors: dict[Any, AccuracyFloor] = {}
    for constraint in constraints:
        if constraint.floor is not None:
            key = (constraint.group_spec, constraint.label, constraint.min_group_size)
            if key not in floors or constraint.floor < floors[key].tolerance:
                floors[key] = AccuracyFloor(
                    constraint.floor,
                    constraint.groups,
                    min_group_size=constraint.min_group_size,
                    label=constraint.label,
                )
    return (*constraints, *floors.values())


def constraints_of(given: Any) -> tuple[Constraint, ...]:
    """None, one or several constraints, as a tuple.

    Raises:
        ConfigError: For anything else.
    """
    if given is None:
        return ()
    several = tuple(given) if isinstance(given, list | tuple) else (given,)
    for constraint in several:
        if not isinstance(constraint, Constraint):
            raise ConfigError(
                f"expected a constraint such as EqualOpportunity(tolerance=0.02), got {shown(constraint)}"
            )
    return several


def constraint_from(spec: Constraint | Mapping[str, Any] | str | None) -> Constraint | None:
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
    if not isinstance(spec, Mapping):
        raise ConfigError(f"expected a constraint such as EqualOpportunity(tolerance=0.02), got {shown(spec)}")
    options = dict(spec)
    name = options.pop("name", None)
    if name == RateParity.name and not isinstance(options.get("rate"), Rate):
        raise ConfigError("a rate of your own is code: build RateParity(tolerance, rate=Rate(…)) in Python")
    plain = [known for known in CONSTRAINTS if known != RateParity.name or name == known]
    cls = CONSTRAINTS[one_of("constraint", name, plain)]
    known = [item.name for item in dataclasses.fields(cls)]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r} for constraint {name!r}: choose from {', '.join(known)}")
    if "tolerance" not in options:
        raise ConfigError(f"constraint {name!r} needs a tolerance, for example 'tolerance': 0.02")
    return cls(**options)
