"""Every quantity of every group: value, 95 % interval, and the paired change against the reference model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import calibration, intervals, text
from .bootstrap import Array, basic_interval, resampled_sums
from .quantities import CALIBRATION, PRECISION, RATE, Quantity

EVERYONE = "everyone"


@dataclass(frozen=True)
class Measure:
    """One quantity of one group; NaN where undefined (a TPR without positives).

    Attributes:
        name: As in :class:`~.quantities.Quantity`.
        cls: Class it is about, if any.
        label: Label it is about, if any.
        group: Name of the group.
        samples: Samples it was counted on.
        value: Of the audited model.
        low: Lower end of the 95 % interval: Wilson for rates, normal for a mean loss, bootstrap for calibration.
        high: Upper end.
        reference: Value of the reference model; NaN without one.
        change: ``value − reference``.
        change_low: Lower end of the change's 95 % interval, paired: Agresti and Min for rates, normal for a mean
            loss, bootstrap for precision and calibration.
        change_high: Upper end.
        scale: How it is written: ``"percent"``, ``"nats"`` or ``"number"``.
    """

    name: str
    cls: int | None
    label: int | None
    group: str
    samples: int
    value: float
    low: float
    high: float
    reference: float = math.nan
    change: float = math.nan
    change_low: float = math.nan
    change_high: float = math.nan
    scale: str = text.PERCENT

    @property
    def key(self) -> tuple[str, int | None, int | None]:
        """What identifies the quantity."""
        return self.name, self.cls, self.label


def measure(
    own: Sequence[Quantity],
    reference: Sequence[Quantity] | None,
    rows: Array,
    group: str,
    *,
    replicates: int,
    rng: np.random.Generator,
) -> list[Measure]:
    """All quantities of one group.

    Args:
        own: Of the audited model.
        reference: Of the reference model, in the same order.
        rows: ``(N,)`` bool: the group's samples.
        group: Its name.
        replicates: Of the bootstrap.
        rng: Of the bootstrap.
    """
    seconds: Sequence[Quantity | None] = [None] * len(own) if reference is None else reference
    make = _calibration, _mean
    return [
        make[quantity.kind != CALIBRATION](quantity, second, rows, group, replicates, rng)
        for quantity, second in zip(own, seconds, strict=True)
    ]


def _mean(
    own: Quantity, reference: Quantity | None, rows: Array, group: str, replicates: int, rng: np.random.Generator
) -> Measure:
    counted = rows.astype(bool) & own.counted.astype(bool)
    values = own.values[counted]
    n = len(values)
    value = float(values.mean()) if n else math.nan
    low, high = intervals.of_proportion(values.sum(), n) if own.kind == RATE else intervals.of_mean(values)
    base = (own.name, own.cls, own.label, group, n, value, low, high)
    if reference is None:
        return Measure(*base, scale=own.scale)
    before = reference.values[rows.astype(bool) & reference.counted.astype(bool)]
    old = float(before.mean()) if len(before) else math.nan
    if own.name == PRECISION:
        interval = _change_of_ratio(own, reference, rows.astype(bool), value - old, replicates, rng)
    elif own.kind == RATE:
        interval = intervals.of_paired_change(before, values)
    else:
        interval = intervals.of_mean(values - before)
    return Measure(*base, old, value - old, *interval, own.scale)


def _change_of_ratio(
    own: Quantity, reference: Quantity, rows: Array, change: float, replicates: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Both models select other samples, so the samples that count differ: resampled together."""
    parts = [own.values * own.counted, own.counted, reference.values * reference.counted, reference.counted]
    sums = resampled_sums(np.stack([part[rows] for part in parts], axis=1), replicates, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        return basic_interval(change, sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])


def _calibration(
    own: Quantity, reference: Quantity | None, rows: Array, group: str, replicates: int, rng: np.random.Generator
) -> Measure:
    members = rows.astype(bool)
    errors = own.values[members]
    n = len(errors)
    base = (own.name, own.cls, own.label, group, n)
    if n == 0:
        return Measure(*base, math.nan, math.nan, math.nan)
    before = None if reference is None else reference.values[members]
    interval, change = calibration.interval_and_change(errors, before, replicates, rng)
    value = float(calibration.error(errors.sum(0), n))
    if before is None:
        return Measure(*base, value, *interval)
    old = float(calibration.error(before.sum(0), n))
    return Measure(*base, value, *interval, old, value - old, *change)
