"""The gap of every rate that a constraint compares, with a 95 % interval that knows how many groups were looked at.

The gap is a maximum over groups. Its plain bootstrap is biased (the largest of fourteen noisy differences is large even
when all are zero), so the interval is built from simultaneous ones: every difference between two groups (or between a
group and the reference) gets d ± c · s, with one critical value c such that, over the bootstrap replicates,
95 % have *all* their differences within (max-t, as in Romano and Wolf, JASA 2005; Tukey's method for 0/1 data). The largest
true difference then lies between the largest lower and the largest upper end. With two groups c is close to 1.96.

Resampling is within groups (their sizes are as given, as for the Wilson intervals), a sample keeps its two predictions
(paired). The standard error s of a group is the larger of the bootstrap's and of the closed form with pseudo-observations
(Agresti and Caffo, 2000; for changes Bonett and Price, 2012): 16 right out of 16 is not certainty. All of that error may lie
on one side of the estimate, so each interval reaches as far around the difference with pseudo-observations, too
(:func:`..fairness.intervals.centre_shift`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..fairness import parity
from ..fairness.constraint import Constraint
from ..fairness.counts import RateCounts
from ..fairness.families import Families
from ..fairness.intervals import Z95, centre_shift, ends
from ..fairness.outputs import Outputs
from ..fairness.rates import Rate
from .bootstrap import Array, resampled_sums
from .intervals import paired_variance


@dataclass(frozen=True)
class Comparisons:
    """The differences between groups behind one gap.

    Attributes:
        rate: Name of the compared rate.
        differences: ``(K,)``, as the tolerance bounds them: absolute values for two-sided demands.
        centres: ``(K,)`` the differences with pseudo-observations; below 0 where those turn a two-sided difference round.
        errors: ``(K,)`` standard errors.
        groups: Which groups each difference is about.
    """

    rate: str
    differences: Array
    centres: Array
    errors: Array
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Gaps:
    """All gaps of one constraint.

    Attributes:
        comparisons: One entry per compared rate; no differences where the gap is undefined.
        critical: The c of the module's docstring.
        rates: ``(R, G)`` compared rates, NaN where unknown.
        totals: ``(R, G)`` samples behind them.
        two_sided: Whether differences are absolute.
        reference_gaps: ``(R,)`` of the reference model; NaN without one, or where the constraint is itself a change.
        changes: ``(B, R)`` gap minus reference gap in the bootstrap replicates, both on the same samples.
    """

    comparisons: tuple[Comparisons, ...]
    critical: float
    rates: Array
    totals: Array
    two_sided: bool
    reference_gaps: Array
    changes: Array

    def interval(self, row: int) -> tuple[float, float, float]:
        """Gap and its interval of one rate; NaN where undefined."""
        item = self.comparisons[row]
        if len(item.differences) == 0:
            return math.nan, math.nan, math.nan
        half = self.critical * item.errors
        low, high = ends(*map(torch.from_numpy, (item.differences, item.centres, half)), two_sided=self.two_sided)
        return float(item.differences.max()), float(low.max()), float(high.max())


def gaps_of(
    constraint: Constraint,
    outputs: Outputs,
    reference: Outputs | None,
    ids: Tensor,
    *,
    replicates: int,
    rng: np.random.Generator,
) -> Gaps:
    """The gaps of a constraint with known groups, by the definitions that training uses.

    Args:
        constraint: What is compared.
        outputs: Of the judged model.
        reference: Of the reference model, if any; a constraint relative to the dense model needs it.
        ids: ``(N,)``, negative for samples of no group.
        replicates: Of the bootstrap.
        rng: Of the bootstrap.
    """
    rates, families = constraint.rates(outputs.task), Families(*constraint.families(outputs.task))
    counts = _counted(rates, outputs, ids, constraint)
    values, variances, totals, middle = counts.values(), counts.variances(), counts.totals, counts.middle()
    before = None
    if reference is not None:
        before = _counted(rates, reference, ids, constraint).values()
    if constraint.relative_to_dense:
        assert reference is not None  # the caller judges nothing else
        assert before is not None
        values, middle, before = values - before, 0 * middle, None
        variances = _paired_variances(rates, outputs, reference, ids, constraint.num_groups)
    known = (totals > 0) & (totals >= constraint.min_group_size)

    def mean(per_rate: Tensor) -> Tensor:
        return families.mean(per_rate, known, undefined=math.nan)

    drawn = _replicates(rates, outputs, reference, ids, values, before, replicates, rng)
    compared, draws = mean(values), torch.stack([mean(draw) for draw in drawn[0]])
    old = None if before is None else (mean(before), torch.stack([mean(draw) for draw in drawn[1]]))
    closed = families.variance(variances, known)
    spread = torch.maximum(draws.var(dim=0), closed).nan_to_num(0.0)
    all_totals = families.total(totals)
    weights = parity.reference_weights(compared, all_totals, constraint.reference_key)
    two_sided = len(constraint.sides) == 2
    comparisons, statistics = [], [np.zeros(replicates)]
    reference_gaps, changes = np.full(len(families.names), np.nan), np.full((replicates, len(families.names)), np.nan)
    for row, name in enumerate(families.names):
        matrix = _contrasts(compared[row], weights[row], constraint)
        errors = np.sqrt(np.square(matrix) @ spread[row].numpy())
        differences, resampled = _differences(matrix, compared[row]), _differences(matrix, draws[:, row])
        with np.errstate(divide="ignore", invalid="ignore"):
            statistics.append(np.nan_to_num(np.abs(resampled - differences) / errors).max(axis=1, initial=0.0))
        groups = tuple(_about(line, constraint) for line in matrix)
        members, shares = families.shares(row, known)
        parts = (values[members], totals[members], variances[members], middle[members])
        shifts = centre_shift(torch.from_numpy(matrix)[:, None] * shares, *parts).numpy()
        size = np.abs if two_sided else np.asarray
        towards = np.where(differences < 0, -1.0, 1.0) if two_sided else 1.0
        comparisons.append(Comparisons(name, size(differences), towards * (differences + shifts), errors, groups))
        if old is not None and len(matrix):
            reference_gaps[row] = size(_differences(matrix, old[0][row])).max()
            changes[:, row] = size(resampled).max(axis=1) - size(_differences(matrix, old[1][:, row])).max(axis=1)
    largest = np.stack(statistics).max(axis=0)
    critical = max(Z95, float(np.quantile(largest, 0.95, method="higher")))
    return Gaps(tuple(comparisons), critical, compared.numpy(), all_totals.numpy(), two_sided, reference_gaps, changes)


def _counted(rates: Sequence[Rate], outputs: Outputs, ids: Tensor, constraint: Constraint) -> RateCounts:
    counts = RateCounts(rates, constraint.num_groups)
    counts.update(outputs, ids)
    return counts


def _differences(matrix: Array, rates: Tensor) -> Array:
    """The contrasts of compared rates, ``(…, G) → (…, K)``."""
    return np.asarray(rates.nan_to_num(0.0).numpy() @ matrix.T)


def _contrasts(rates: Tensor, weights: Tensor, constraint: Constraint) -> Array:
    """Weights of the groups in each difference, ``(K, G)``; pairs, or each group against the reference."""
    reference = constraint.reference_key
    ok = parity.defined(rates[None], weights[None], reference)[0]
    members = ok.nonzero().reshape(-1).tolist()
    if reference == parity.PAIRWISE:
        lines = []
        for first, second in itertools.combinations(members, 2):
            line = np.zeros(len(rates))
            line[first], line[second] = 1.0, -1.0
            lines.append(line)
    else:
        sign = 1.0 if len(constraint.sides) == 2 else float(constraint.sides[0])
        own = np.eye(len(rates)) - weights.numpy()[None, :]
        lines = [sign * own[g] for g in members if g != reference or isinstance(reference, str)]
    return np.stack(lines) if lines else np.zeros((0, len(rates)))


def _about(line: Array, constraint: Constraint) -> tuple[int, ...]:
    """The groups a difference is about: both of a pair; else the one that is compared, and a reference group."""
    if constraint.reference_key == parity.PAIRWISE or isinstance(constraint.reference_key, int):
        return tuple(int(g) for g in np.flatnonzero(line))
    return (int(np.abs(line).argmax()),)


def _replicates(
    rates: Sequence[Rate],
    outputs: Outputs,
    reference: Outputs | None,
    ids: Tensor,
    observed: Tensor,
    before: Tensor | None,
    replicates: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Rates of resampled groups, and those of the reference model on the same samples, ``(B, R, G)`` each.

    Where a replicate drew no sample of the event: the observed rate. Without ``before`` the rates are the changes
    themselves, if there is a reference, and the second tensor means nothing.
    """
    counted = torch.stack([rate.counted(outputs.targets) for rate in rates], dim=1).double()
    values = torch.stack([rate.values(outputs) for rate in rates], dim=1)
    others = torch.zeros_like(values)
    if reference is not None:
        others = torch.stack([rate.values(reference) for rate in rates], dim=1)
    if reference is not None and before is None:
        values, others = values - others, torch.zeros_like(values)
    rows = torch.cat([values * counted, others * counted, counted], dim=1).numpy()
    own, old = (torch.empty(replicates, *observed.shape, dtype=torch.float64) for _ in range(2))
    fallback = torch.zeros_like(observed) if before is None else before
    for group in range(observed.shape[1]):
        sums = torch.from_numpy(resampled_sums(rows[(ids == group).numpy()], replicates, rng))
        hits, other_hits, totals = sums.chunk(3, dim=1)
        own[:, :, group] = torch.where(totals > 0, hits / totals, observed[:, group])
        old[:, :, group] = torch.where(totals > 0, other_hits / totals, fallback[:, group])
    return own, old


def _paired_variances(
    rates: Sequence[Rate], outputs: Outputs, reference: Outputs, ids: Tensor, num_groups: int
) -> Tensor:
    """Squared standard errors of the changes, ``(R, G)``."""
    out = torch.full((len(rates), num_groups), math.nan, dtype=torch.float64)
    for row, rate in enumerate(rates):
        difference, counted = rate.values(outputs) - rate.values(reference), rate.counted(outputs.targets)
        for group in range(num_groups):
            own = difference[counted & (ids == group)]
            n = len(own)
            if n and rate.indicator:
                out[row, group] = paired_variance(float(own.sum()), float(own.square().sum()), n, discordant=2)
            elif n:
                out[row, group] = float(own.var(correction=0)) / max(n - 1, 0.5)
    return out
