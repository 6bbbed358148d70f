"""Which rates constraints compare, as the tables name them: the library's by name, class and label, a user's as they are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..fairness.constraint import Constraint
from ..fairness.constraints import RateParity
from ..fairness.outputs import Task
from ..fairness.rates import Rate
from . import text


@dataclass(frozen=True)
class ComparedRate:
    """One rate that a constraint compares.

    Attributes:
        rate: How it is counted.
        name: Of the quantity; a user's own name as it stands, brackets and all.
        cls: The class it is about, if any.
        label: The label of a multi-label task it is about, if any.
    """

    rate: Rate
    name: str
    cls: int | None = None
    label: int | None = None


def compared_rates(constraint: Constraint, task: Task) -> list[ComparedRate]:
    """The rates of a constraint, each with the name, class and label that identify its column."""
    if isinstance(constraint, RateParity):
        assert constraint.rate is not None  # its constructor refuses None
        return [ComparedRate(rate, constraint.rate.name, None, constraint.label) for rate in constraint.rates(task)]
    found = []
    for rate in constraint.rates(task):
        name, cls, label = text.parsed(rate.name)
        found.append(ComparedRate(rate, rate.name) if isinstance(cls, str) else ComparedRate(rate, name, cls, label))
    return found


def named_apart(constraints: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """The constraints, users' own rates renamed where a name is taken: by a quantity that every audit has
    (``"accuracy (own)"``), or by another rate (``"rate (2)"``). The same rate in two constraints keeps one name."""
    taken: dict[str, Rate] = {}

    def apart(constraint: Constraint) -> Constraint:
        if not isinstance(constraint, RateParity) or constraint.rate is None:
            return constraint
        own = constraint.rate
        name = next(name for name in _candidates(own.name) if taken.setdefault(name, own) == own)
        return dataclasses.replace(constraint, rate=dataclasses.replace(own, name=name))

    return tuple(map(apart, constraints))


def _candidates(name: str) -> Iterator[str]:
    """Names for a user's rate, the first free one to be taken."""
    base = f"{name} (own)" if name in (*text.TITLES, "count") else name
    yield base
    yield from (f"{base} ({number})" for number in itertools.count(2))
