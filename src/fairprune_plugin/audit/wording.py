"""The sentences of a report, the same in every form: verdicts, the samples they need, levelling down."""

from __future__ import annotations

import math

from . import text
from .decide import MET, VIOLATED, AuditVerdict
from .levelling import LevellingDown
from .report import FairnessAudit

HOPELESS = 1000  # times the samples, from which on a number says less than a word
REFERENCES = {
    "pairwise": "the best and the worst group",
    "overall": "a group and everybody",
}
METHOD = (
    "Rates: Wilson's score interval. Mean loss: normal. Calibration error: equal-width bins of the confidence "
    "(binary: probability of class 1; multi-class: of the predicted class), bootstrap interval. Changes are paired, on "
    "the same samples: Agresti and Min's interval for rates, bootstrap for precision and calibration error. Gaps: samples "
    "are resampled within each group; the intervals of all differences of a constraint hold together (max-t), so a gap "
    "over many groups is not taken for more than chance would give. All intervals are 95 %."
)


def is_binary(report: FairnessAudit) -> bool:
    """Whether class 1 goes without saying."""
    return report.task == "2 classes" or report.task.endswith("labels")


def headline(report: FairnessAudit) -> str:
    """One sentence on all constraints."""
    if not report.verdicts:
        return "No constraint was asked for."
    number = {status: sum(v.status == status for v in report.verdicts) for status in (MET, VIOLATED)}
    open_ = len(report.verdicts) - sum(number.values())
    parts = [f"{n} {status}" for status, n in number.items() if n] + ([f"{open_} not decidable"] if open_ else [])
    return f"{len(report.verdicts)} constraint{'s'[: len(report.verdicts) > 1]}: {', '.join(parts)}."


def capitalised(name: str) -> str:
    """For the beginning of a sentence."""
    return name[:1].upper() + name[1:]


def verdict_title(verdict: AuditVerdict) -> str:
    """Name of a constraint, and what its groups are about."""
    head = text.constraint_title(verdict.constraint)
    return f"{head} · {verdict.attribute}" if verdict.attribute else head


def compared_title(verdict: AuditVerdict, rate: str, report: FairnessAudit) -> str:
    """A rate that a constraint compares, in words; the name of a user's own rate is not taken apart."""
    if not verdict.own_rate:
        return text.rate_title(rate, report.class_names, binary=is_binary(report))
    name = rate if verdict.label is None else rate.removesuffix(f"@{verdict.label}")
    return text.title(name, None, verdict.label, report.class_names, binary=is_binary(report))


def gap_sentence(verdict: AuditVerdict, report: FairnessAudit) -> str:
    """Gap, interval and tolerance."""
    limit = text.difference(verdict.tolerance, verdict.scale)
    if math.isnan(verdict.gap):
        return f"The gap is undefined (tolerance {limit})."
    size, ends = text.difference(verdict.gap, verdict.scale), text.interval(verdict.low, verdict.high, verdict.scale)
    return f"{_gap_in_words(verdict, report, size)}, 95 % interval {ends}; tolerance {limit}."


def _gap_in_words(verdict: AuditVerdict, report: FairnessAudit, size: str) -> str:
    rate = compared_title(verdict, verdict.rate, report)
    groups = f" ({' and '.join(verdict.groups)})" if verdict.groups else ""
    if verdict.relative:
        rate = f"Change of {rate[:1].lower()}{rate[1:]} against {report.reference_name}"
    if verdict.one_sided:
        beyond = "" if verdict.reference == "itself" else " beyond everybody's"
        return f"{rate}: largest loss{beyond} {size}{groups}"
    between = REFERENCES.get(verdict.reference, f"a group and {verdict.reference}")
    return f"{rate}: gap {size} between {between}{groups}"


def reference_sentence(verdict: AuditVerdict, report: FairnessAudit) -> str:
    """The gap of the reference model; empty without one."""
    if math.isnan(verdict.reference_gap):
        return ""
    ends = text.interval(verdict.gap_change_low, verdict.gap_change_high, verdict.scale)
    return (
        f"{capitalised(report.reference_name)}: gap {text.difference(verdict.reference_gap, verdict.scale)}; change "
        f"{text.change(verdict.gap_change, verdict.scale)}{text.unit(verdict.scale)} ({ends})."
    )


def needed_sentence(verdict: AuditVerdict, report: FairnessAudit) -> str:
    """The sample size that would decide; empty where that is no question."""
    needed = verdict.needed
    if needed is None:
        return ""
    if math.isinf(needed.factor):
        return "The gap equals the tolerance: no number of samples decides that."
    if needed.factor > HOPELESS:
        times = text.count(HOPELESS)
        return f"More than {times} times the samples would be needed: the gap is all but equal to the tolerance."
    rate = compared_title(verdict, needed.rate, report)
    groups = ", ".join(
        f"{name}: {text.count(now)} → {text.count(then)}" for name, now, then in needed.groups if then is not None
    )
    return (
        f"About {text.factor(needed.factor)} times the samples would decide it, if the rates stay as they are "
        f"(samples behind “{rate}”: {groups})."
    )


def levelling_sentence(flag: LevellingDown, report: FairnessAudit) -> str:
    """Who paid for parity."""
    name = flag.rate.split("[")[0].split("@")[0]
    rate = text.rate_title(flag.rate, report.class_names, binary=is_binary(report))
    return (
        f"Levelling down ({text.constraint_title(flag.constraint)}): the gap is within the tolerance, but the better-off "
        f"group {flag.better_off} went {_worse(name)} by {text.difference(abs(flag.change), flag.scale)} in {rate} "
        f"({text.interval(flag.low, flag.high, flag.scale)}) against {report.reference_name}; {flag.worse_off} changed by "
        f"{text.change(flag.worse_off_change, flag.scale)}."
    )


def _worse(name: str) -> str:
    return "up" if name in ("loss", "false_positive_rate") else "down"
