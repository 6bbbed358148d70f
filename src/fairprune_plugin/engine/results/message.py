"""The paragraph a run ends with: does the constraint hold, by how much, and is there a catch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...fairness.evaluation import Evaluation
from ...fairness.verdict import SATISFIED
from .result import HistoryRow


def message(
    before: Evaluation, after: Evaluation, history: Sequence[HistoryRow], *, chosen: bool, validated: bool = False
) -> str:
    """See the module.

    Args:
        before: The dense model on the same data.
        after: The returned model on the data it was chosen by.
        history: The run; says which constraints collide.
        chosen: Whether the model was chosen among several moments of the run.
        validated: Whether there were validation data to choose by.
    """
    if not after.verdicts:
        return "No constraint was asked for."
    parts = [
        f"{v.title}: gap {v.gap:.4f} ({v.low:.4f} to {v.high:.4f}) against a tolerance of {v.tolerance:g}, {v.status}"
        for v in after.verdicts
    ]
    head = f"On the {after.split} data the gap is within the tolerance"
    if all(verdict.status == SATISFIED for verdict in after.verdicts):
        head = f"On the {after.split} data the constraint holds"
    if not after.feasible and not chosen:
        why = "no validation data, so no other moment of the run was looked at"
        if validated:
            why = "an earlier call was interrupted, and the moments that it looked at are gone: checkpoint_dir=… keeps them"
        head = f"NOT FEASIBLE: the model does not meet the constraint on the {after.split} data ({why})"
    elif not after.feasible:
        head = (
            f"NOT FEASIBLE: no model at the target size met the constraint on the {after.split} data; this is the "
            "nearest one found"
        )
    catch = "" if after.feasible else collisions(after, history)
    if after.degenerate:
        catch += (
            " DEGENERATE: the model predicts the same class for everybody, which is equal and useless; prune less, "
            "train longer, widen the tolerance, or use target='params'."
        )
    return f"{head}. {'; '.join(parts)}.{largest_loss(before, after)}{catch}"


def largest_loss(before: Evaluation, after: Evaluation) -> str:
    """Which group paid: parity can be reached by making the better-off group worse (levelling down)."""
    dense = {(item.rate, item.attribute, item.group): item.value for item in before.rates}
    losses = [
        (dense[key] - item.value, item)
        for item in after.rates
        if item.rate.startswith("accuracy") and (key := (item.rate, item.attribute, item.group)) in dense
    ]
    lost = [(loss, item) for loss, item in losses if loss > 0]
    if not lost:
        return ""
    loss, item = max(lost, key=lambda pair: pair[0])
    return f" Against the dense model, group {item.group} lost most: {loss:.4f} of {item.rate}."


def collisions(after: Evaluation, history: Sequence[HistoryRow]) -> str:
    """Which of several constraints could not be met together, and which not at all, by how much; at the target size.

    Two constraints collide if each was met at some moment, and never both.
    """
    rows = [row for row in history if row.at_target]
    if len(after.verdicts) < 2 or not rows:
        return ""
    names = [verdict.title for verdict in after.verdicts]
    excesses = [
        [math.inf if math.isnan(gap) else gap - v.tolerance for gap, v in zip(row.gaps, after.verdicts, strict=True)]
        for row in rows
    ]
    out = []
    for i, name in enumerate(names):
        row = min(excesses, key=lambda row: row[i])
        if math.isinf(row[i]):
            out.append(f"{name} was undefined at every moment")
        elif row[i] > 0:
            then = [
                f"{other} by {over:.4f}" for other, over in zip(names, row, strict=True) if other != name and over > 0
            ]
            others = f" (and {', '.join(then)})" if then else ""
            out.append(f"{name} was never met, the closest moment exceeded it by {row[i]:.4f}{others}")
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            alone = any(row[i] <= 0 for row in excesses) and any(row[j] <= 0 for row in excesses)
            both = min(max(row[i], row[j]) for row in excesses)
            if alone and both > 0:
                out.append(
                    f"{first} and {names[j]} collide: each was met, never both, the closest moment exceeded one of them by "
                    f"{both:.4f}"
                )
    if not out:
        together = min(max(row) for row in excesses)
        out.append(
            f"the constraints were never all met at one moment, the closest exceeded one of them by {together:.4f}"
        )
    return f" {'; '.join(out)}."
