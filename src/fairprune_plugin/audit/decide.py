"""Verdict of each constraint: met, violated or not decidable, and the sample size that would decide it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..fairness.constraint import Constraint
from ..fairness.constraints import RateParity
from ..fairness.outputs import Outputs
from . import text
from .bootstrap import basic_interval
from .compared import ComparedRate, compared_rates
from .gaps import Gaps, gaps_of
from .membership import Membership
from .quantities import LOSS

MET = "met"
VIOLATED = "violated"
UNDECIDABLE = "not decidable"


@dataclass(frozen=True)
class GapOfRate:
    """One compared rate: its gap with a 95 % interval, NaN where undefined."""

    rate: str
    gap: float
    low: float
    high: float


@dataclass(frozen=True)
class NeededSamples:
    """How much more data would decide a verdict, if the rates stay as they are (half width ∝ 1/√n).

    Attributes:
        factor: Times today's samples; infinite when the gap equals the tolerance: no sample size decides that.
        rate: The rate whose interval is too wide.
        groups: The limiting groups: name, samples behind the rate today, samples needed (``None``: no number helps).
    """

    factor: float
    rate: str
    groups: tuple[tuple[str, int, int | None], ...]


@dataclass(frozen=True)
class AuditVerdict:
    """What the audit says about one constraint.

    Attributes:
        constraint: Its name.
        attribute: What its groups are about, if that has a name.
        reference: What groups are compared with: ``"pairwise"``, ``"overall"``, ``"itself"`` or a group.
        tolerance: What was asked for.
        status: ``"met"``: the whole 95 % interval of every gap is within the tolerance, and every group has a rate;
            ``"violated"``: the whole interval of some gap is beyond; else ``"not decidable"``.
        rate: The rate with the largest gap.
        gap: That gap, by the point estimates; NaN if undefined.
        low: Lower end of its interval.
        high: Upper end.
        groups: The groups that make the gap.
        gaps: Of every compared rate.
        needed: The sample size that would decide it; ``None`` if decided, or if no number of samples is the cure.
        reference_gap: The reference model's gap of the same rate; NaN without one.
        gap_change: ``gap − reference_gap``.
        gap_change_low: Lower end of its 95 % interval (paired basic bootstrap; approximate).
        gap_change_high: Upper end.
        critical: Critical value of the simultaneous intervals, at least 1.96.
        notes: Groups that could not be judged, and why.
        scale: How rates and gap are written, see :mod:`.text`.
        relative: Whether the rates are changes against the reference model.
        one_sided: Whether only losses count.
        own_rate: Whether the compared rate is a user's own, whose name is to be read as it stands.
        label: The one label of a multi-label task that is constrained, if any.
    """

    constraint: str
    attribute: str
    reference: str
    tolerance: float
    status: str
    rate: str
    gap: float = math.nan
    low: float = math.nan
    high: float = math.nan
    groups: tuple[str, ...] = ()
    gaps: tuple[GapOfRate, ...] = ()
    needed: NeededSamples | None = None
    reference_gap: float = math.nan
    gap_change: float = math.nan
    gap_change_low: float = math.nan
    gap_change_high: float = math.nan
    critical: float = math.nan
    notes: tuple[str, ...] = ()
    scale: str = text.PERCENT
    relative: bool = False
    one_sided: bool = False
    own_rate: bool = False
    label: int | None = None

    @property
    def within(self) -> bool:
        """Whether the point estimate is within the tolerance (an undefined gap is not)."""
        return self.gap <= self.tolerance


def judge(
    constraint: Constraint,
    membership: Membership,
    outputs: Outputs,
    reference: Outputs | None,
    *,
    replicates: int,
    seed: int,
) -> AuditVerdict:
    """Verdict of a constraint whose groups are known."""
    if constraint.relative_to_dense and reference is None:
        why = "it compares with the dense model, and there is no reference model: pass reference_model"
        return AuditVerdict(*_head(constraint), UNDECIDABLE, constraint.families(outputs.task)[0][0], notes=(why,))
    rng = np.random.default_rng(seed)
    gaps = gaps_of(constraint, outputs, reference, membership.ids, replicates=replicates, rng=rng)
    each = tuple(GapOfRate(item.rate, *gaps.interval(row)) for row, item in enumerate(gaps.comparisons))
    worst = int(np.argmax([-math.inf if math.isnan(item.gap) else item.gap for item in each]))
    item, behind = each[worst], gaps.comparisons[worst]
    notes, unjudged = _unjudged_groups(constraint, gaps)
    status = _status(constraint.tolerance, each, complete=not unjudged)
    names = constraint.group_names
    about = behind.groups[int(behind.differences.argmax())] if len(behind.groups) else ()
    old = float(gaps.reference_gaps[worst])
    return AuditVerdict(
        *_head(constraint),
        status,
        item.rate,
        item.gap,
        item.low,
        item.high,
        tuple(names[g] for g in about),
        each,
        None if status != UNDECIDABLE or unjudged else needed_samples(gaps, constraint.tolerance, names),
        old,
        item.gap - old,
        *basic_interval(item.gap - old, gaps.changes[:, worst]),
        critical=gaps.critical,
        notes=tuple(notes),
        scale=_scale(compared_rates(constraint, outputs.task)[0]),
        relative=constraint.relative_to_dense,
        one_sided=len(constraint.sides) == 1,
        own_rate=isinstance(constraint, RateParity),
        label=constraint.label,
    )


def needed_samples(gaps: Gaps, tolerance: float, names: tuple[str, ...]) -> NeededSamples | None:
    """The smallest factor on all samples at which the intervals decide, at today's point estimates.

    With f times the samples the interval of a difference d ends at h/√f from d and from d + s/f, as pseudo-observations
    shift it the less the more samples there are. All must end below the tolerance: the largest factor of all; or one must
    begin above it: the smallest of those beyond. Without the shift s a factor is (h / (d − τ))².
    """
    found = []
    for row, item in enumerate(gaps.comparisons):
        for d, centre, error, groups in zip(item.differences, item.centres, item.errors, item.groups, strict=True):
            half, shift = gaps.critical * float(error), float(centre - d)
            if d > tolerance + 1e-12:
                factor = _factor(half, -shift, float(d) - tolerance)
            else:
                factor = _factor(half, shift, tolerance - float(d))
                if gaps.two_sided:  # the other end of an interval around 0
                    factor = max(factor, _factor(half, -shift, tolerance + float(d)))
            found.append((d > tolerance + 1e-12, factor, row, groups))
    if not found:
        return None
    beyond = [entry for entry in found if entry[0]]
    _, factor, row, groups = min(beyond, key=lambda e: e[1]) if beyond else max(found, key=lambda e: e[1])
    now = [(names[g], int(gaps.totals[row, g])) for g in groups]
    needed = tuple((name, n, None if math.isinf(factor) else math.ceil(n * factor)) for name, n in now)
    return NeededSamples(factor, gaps.comparisons[row].rate, needed)


def _factor(half: float, shift: float, distance: float) -> float:
    """The smallest f with half/√f ≤ distance and half/√f + shift/f ≤ distance."""
    if distance <= 1e-12:
        return math.inf
    return ((half + math.sqrt(half * half + 4 * max(0.0, shift) * distance)) / (2 * distance)) ** 2


def _scale(compared: ComparedRate) -> str:
    if compared.rate.indicator:
        return text.PERCENT
    return text.NATS if compared.name == LOSS else text.NUMBER


def _status(tolerance: float, gaps: tuple[GapOfRate, ...], *, complete: bool) -> str:
    # A NaN compares False: an undefined gap is neither met nor violated.
    if any(item.low > tolerance for item in gaps):
        return VIOLATED
    return MET if complete and all(item.high <= tolerance for item in gaps) else UNDECIDABLE


def _head(constraint: Constraint) -> tuple[str, str, str, float]:
    key = constraint.reference_key
    reference = key if isinstance(key, str) else constraint.group_names[key]
    return constraint.name, constraint.group_spec.label, reference, constraint.tolerance


def _unjudged_groups(constraint: Constraint, gaps: Gaps) -> tuple[list[str], bool]:
    """Groups without a compared rate, in words, and whether any of them keeps the verdict open.

    A group below ``min_group_size`` is reported and not constrained, on the user's own word; one without any sample of the
    event leaves open whether the constraint holds for it.
    """
    notes, left_open = [], False
    for row, item in enumerate(gaps.comparisons):
        unknown = np.isnan(gaps.rates[row])
        if unknown.all() and not constraint.min_group_size:
            notes.append(f"{item.rate} is undefined for every group: no sample meets its condition")
            left_open = True
            continue
        for group, name in enumerate(constraint.group_names):
            if not unknown[group]:
                continue
            n = int(gaps.totals[row, group])
            if n < constraint.min_group_size:
                notes.append(
                    f"{item.rate} of {name} rests on {n} samples, fewer than {constraint.min_group_size}: not judged"
                )
            else:
                notes.append(f"{item.rate} of {name} is undefined: no sample meets its condition")
                left_open = True
    return notes, left_open
