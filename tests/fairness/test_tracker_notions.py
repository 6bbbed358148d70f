"""The surrogate penalty of every notion, its gradient against naive autograd, small groups, warm-up and margin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fairprune_plugin.errors import ConfigError
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyFloor,
    AccuracyParity,
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    ExcessAccuracyGap,
    LossParity,
    PredictiveEquality,
    RateParity,
)
from fairprune_plugin.fairness.intervals import Z95
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.rates import Rate
from fairprune_plugin.fairness.tracker import ConstraintTracker
from fairprune_plugin.fairness.verdict import judge
from measured import SPLIT, counted, random_outputs

BINARY, FOUR_CLASSES, THREE_LABELS = Task(2), Task(4), Task(2, 3)
GROUPS = 3
RATE = Rate(
    lambda out: out.predicted() == 1, lambda y: y != 1, surrogate=lambda out: out.probability(1).square(), name="own"
)

PENALTIES: dict[str, tuple[Constraint, tuple[Task, ...]]] = {
    "loss-overall": (LossParity(0.07, groups=GROUPS), (BINARY, FOUR_CLASSES, THREE_LABELS)),
    "loss-pairwise": (LossParity(0.07, groups=GROUPS, reference="pairwise"), (BINARY, FOUR_CLASSES)),
    "predictive-equality": (PredictiveEquality(0.07, groups=GROUPS), (BINARY, FOUR_CLASSES, THREE_LABELS)),
    "degradation": (DegradationParity(0.07, groups=GROUPS), (BINARY, FOUR_CLASSES, THREE_LABELS)),
    "ceag": (ExcessAccuracyGap(0.01, groups=GROUPS), (BINARY, FOUR_CLASSES, THREE_LABELS)),
    "floor": (AccuracyFloor(0.01, groups=GROUPS), (BINARY, FOUR_CLASSES, THREE_LABELS)),
    "macro-recall": (EqualOpportunity(0.07, groups=GROUPS, average="macro"), (BINARY, FOUR_CLASSES, THREE_LABELS)),
    "macro-odds": (
        EqualizedOdds(0.07, groups=GROUPS, average="macro", reference="overall"),
        (FOUR_CLASSES, THREE_LABELS),
    ),
    "macro-to-a-group": (EqualOpportunity(0.07, groups=GROUPS, average="macro", reference=2), (FOUR_CLASSES,)),
    "odds": (EqualizedOdds(0.07, groups=GROUPS), (THREE_LABELS,)),
    "one-label": (EqualizedOdds(0.07, groups=GROUPS, label=1), (THREE_LABELS,)),
    "own-rate": (RateParity(0.07, groups=GROUPS, rate=RATE), (BINARY, FOUR_CLASSES)),
    "own-rate-of-a-label": (RateParity(0.07, groups=GROUPS, rate=RATE, label=2), (THREE_LABELS,)),
}
CASES = [
    pytest.param(constraint, task, id=f"{name}-{task}".replace(" ", "-"))
    for name, (constraint, tasks) in PENALTIES.items()
    for task in tasks
]


def naive_penalty(
    constraint: Constraint, outputs: Outputs, s: Tensor, multipliers: Tensor, dense: Outputs, usable: Tensor
) -> Tensor:
    """docs/method.md with loops and masks, on one full batch; ``usable``: (R, G) rates that enter a comparison."""
    rates = constraint.rates(outputs.task)
    names, member_of = constraint.families(outputs.task)
    total = torch.zeros((), dtype=torch.float64)
    for family in range(len(names)):
        members = [i for i, f in enumerate(member_of) if f == family]
        in_play = [g for g in range(GROUPS) if any(usable[i, g] for i in members)]
        members = [i for i in members if all(usable[i, g] for g in in_play)]
        strict, soft, sizes = {}, {}, {}
        for g in in_play:
            masks = [rates[i].counted(outputs.targets) & (s == g) for i in members]
            sizes[g] = sum(int(mask.sum()) for mask in masks)
            strict[g] = sum(
                float(rates[i].values(outputs)[mask].mean()) for i, mask in zip(members, masks, strict=True)
            ) / len(members)
            soft[g] = sum(
                rates[i].surrogate_values(outputs, constraint.surrogate)[mask].mean()
                for i, mask in zip(members, masks, strict=True)
            ) / len(members)
            if constraint.relative_to_dense:
                before = float(rates[members[0]].values(dense)[masks[0]].mean())
                strict[g], soft[g] = strict[g] - before, soft[g] - before
        allowed = constraint.tolerance
        if constraint.reference == "pairwise":
            middle, allowed = (soft[max(strict, key=strict.get)] + soft[min(strict, key=strict.get)]) / 2, allowed / 2
        elif constraint.reference == "overall":
            middle = sum(sizes[g] * soft[g] for g in in_play) / sum(sizes.values())
        elif constraint.reference == "itself":
            middle = 0.0
        else:
            middle = soft[int(constraint.reference)]
        for g in in_play:
            for row, side in enumerate(constraint.sides):
                total = total + multipliers[row, family, g] * (side * (soft[g] - middle) - allowed)
    return total


@pytest.mark.parametrize(("constraint", "task"), CASES)
def test_penalty_and_gradient_against_autograd(constraint: Constraint, task: Task) -> None:
    base, dense, s = random_outputs(task, 120), random_outputs(task, 120), torch.randint(GROUPS, (120,))
    dense = Outputs(dense.logits, base.targets, base.num_classes, base.num_labels)
    logits = base.logits.clone().requires_grad_()
    outputs = Outputs(logits, base.targets, base.num_classes, base.num_labels)
    tracker, counts = counted(constraint, base, s, dense=dense)
    multipliers = torch.rand(tracker.multipliers.shape)
    tracker.multipliers.set(multipliers)
    ours = tracker.penalty(outputs, s)
    expected = naive_penalty(constraint, outputs, s, multipliers.double(), dense, counts.totals > 0)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-5)
    (gradient,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 0


def test_macro_surrogate_averages_the_classes_that_the_strict_gap_averages() -> None:
    """With a minimum size a class may drop out for everybody; penalty and half width must drop it too."""
    outputs, s = random_outputs(FOUR_CLASSES, 120), torch.randint(GROUPS, (120,))
    small = (outputs.targets == 2) & (s == 1)
    keep = ~small
    keep[small.nonzero()[:2]] = True  # two people left
    outputs, s = Outputs(outputs.logits[keep].requires_grad_(), outputs.targets[keep], 4), s[keep]
    constraint = EqualOpportunity(0.07, groups=GROUPS, average="macro", min_group_size=3)
    tracker, counts = counted(constraint, outputs, s)
    multipliers = torch.rand(tracker.multipliers.shape)
    tracker.multipliers.set(multipliers)
    usable = torch.ones(4, GROUPS, dtype=torch.bool)
    usable[2, 1] = False
    assert torch.equal(usable, counts.totals >= 3), "the random data have one small group only"
    ours = tracker.penalty(outputs, s)
    expected = naive_penalty(constraint, outputs, s, multipliers.double(), outputs, usable)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    ids = [0, 1, 3]
    three = counts.variances()[ids].mean(0) / 3
    rates = counts.values()[ids].mean(0)
    half = Z95 * math.sqrt(float(three[rates.argmax()] + three[rates.argmin()]))
    assert float(tracker.half_widths(counts, SPLIT)) == pytest.approx(half)


class TestMinGroupSize:
    """A group below the minimum is reported and not constrained, wherever the size was looked up."""

    Y = torch.ones(12)
    S = torch.tensor([0] * 5 + [1] * 5 + [2] * 2)
    LOGITS = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1])  # accuracies 1, .8 and 0 (of two people)

    def test_it_counts_for_no_gap_violation_or_reference(self) -> None:
        outputs = Outputs.parse(self.LOGITS, self.Y)
        for reference, gap in (("pairwise", 0.2), ("overall", 0.1), (0, 0.2)):
            constraint = AccuracyParity(0.05, groups=3, reference=reference, min_group_size=3)
            tracker, counts = counted(constraint, outputs, self.S)
            assert float(tracker.gaps(counts, SPLIT)) == pytest.approx(gap)
            violation = tracker.strict_violation(counts, SPLIT)
            assert (violation[:, :, 2] == 0).all()
            assert float(violation.max()) > 0
            assert tracker.compared(counts, SPLIT)[0].isnan().tolist() == [False, False, True]
            assert float(counts.values()[0, 2]) == 0.0, "its rate is there for the report"
            all_in, same = counted(AccuracyParity(0.05, groups=3, reference=reference), outputs, self.S)
            assert float(all_in.gaps(same, SPLIT)) > gap

    def test_a_gap_to_a_small_reference_group_is_undefined(self) -> None:
        tracker, counts = counted(
            AccuracyParity(0.05, groups=3, reference=2, min_group_size=3), Outputs.parse(self.LOGITS, self.Y), self.S
        )
        assert tracker.gaps(counts, SPLIT).isnan().all()

    def test_the_size_is_that_of_the_rates_condition(self) -> None:
        y = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1])  # group 1 has two positives
        tracker, counts = counted(
            EqualOpportunity(0.05, groups=3, min_group_size=3), Outputs.parse(self.LOGITS, y), self.S
        )
        assert tracker.compared(counts, SPLIT)[0].isnan().tolist() == [False, True, True]
        assert tracker.gaps(counts, SPLIT).isnan().all()

    def test_the_size_of_the_whole_split_counts_and_not_that_of_a_window(self) -> None:
        outputs = Outputs.parse(self.LOGITS, self.Y)
        tracker, _ = counted(AccuracyParity(0.05, groups=3, min_group_size=3), outputs, self.S)
        tracker.sizes[SPLIT] = torch.tensor([[5.0, 5.0, 2.0]])
        window = tracker.new_counts()
        window.update(Outputs.parse(self.LOGITS[4:6], self.Y[4:6]), self.S[4:6])  # one person of groups 0 and 1
        assert tracker.compared(window, SPLIT)[0].isnan().tolist() == [False, False, True]

    def test_its_samples_have_no_part_in_the_penalty(self) -> None:
        logits = self.LOGITS.clone().requires_grad_()
        tracker, _ = counted(AccuracyParity(0.05, groups=3, min_group_size=3), Outputs.parse(logits, self.Y), self.S)
        tracker.multipliers.set(torch.rand(2, 1, 3))
        tracker.penalty(Outputs.parse(logits, self.Y), self.S).backward()
        assert logits.grad is not None
        assert (logits.grad[self.S == 2] == 0).all()
        assert (logits.grad[self.S != 2] != 0).all()

    def test_the_verdict_is_about_the_others(self) -> None:
        y, s = torch.ones(2002), torch.tensor([0] * 1000 + [1] * 1000 + [2] * 2)
        outputs = Outputs.parse(torch.where(s == 2, -1.0, 1.0), y)
        tracker, counts = counted(AccuracyParity(0.05, groups=3, min_group_size=3), outputs, s)
        assert (judge(tracker, counts, SPLIT).status, judge(tracker, counts, SPLIT).gap) == ("satisfied", 0.0)
        tracker, counts = counted(AccuracyParity(0.05, groups=3), outputs, s)
        assert judge(tracker, counts, SPLIT).status == "violated"


# ---- warm-up and margin -------------------------------------------------------------------------------------

Y4, S4 = torch.ones(4), torch.tensor([0, 0, 1, 1])
UNEQUAL = torch.tensor([1.0, 1.0, 1.0, -1.0])  # accuracies 1 and ½


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_warmup_holds_the_multipliers_still_for_as_many_training_steps(steps: int) -> None:
    config = MultiplierConfig(lr=0.1, warmup=10)
    tracker, counts = counted(AccuracyParity(0.1, reference=1), Outputs.parse(UNEQUAL, Y4), S4, config=config)
    for _ in range(10 // steps):
        tracker.dual_step(counts, SPLIT, steps=steps)
        assert (tracker.multipliers.value == 0).all()
    tracker.dual_step(counts, SPLIT, steps=steps)
    assert float(tracker.multipliers.value[0, 0, 0]) == pytest.approx(0.1 * steps * 0.4)


def test_warmup_goes_on_after_a_round_trip() -> None:
    config = MultiplierConfig(lr=0.1, warmup=3)
    one, counts = counted(AccuracyParity(0.1), Outputs.parse(UNEQUAL, Y4), S4, config=config)
    other = ConstraintTracker(one.constraint, BINARY, config)
    one.dual_step(counts, SPLIT, steps=3)
    other.load_state_dict(one.state_dict())
    other.dual_step(counts, SPLIT)
    assert float(other.multipliers.value.max()) > 0


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("reference", ["pairwise", 1], ids=str)
def test_margin_tightens_by_half_widths_and_not_below_zero(margin: float, reference: str | int) -> None:
    n = 500
    s = torch.arange(2 * n) % 2
    logits = torch.where((s == 1) & (torch.arange(2 * n) < 200), -1.0, 1.0)  # accuracies 1 and .8
    config = MultiplierConfig(lr=1.0, margin=margin)
    constraint = AccuracyParity(0.05, reference=reference)
    tracker, counts = counted(constraint, Outputs.parse(logits, torch.ones(2 * n)), s, config=config)
    tracker.dual_step(counts, SPLIT)
    p, q = (n + 1) / (n + 2), (n - 100 + 1) / (n + 2)
    half = Z95 * math.sqrt(p * (1 - p) / (n + 2) + q * (1 - q) / (n + 2))
    assert 0.03 < half < 0.04
    violation = 0.2 - max(0.0, 0.05 - margin * half)
    share = 0.5 if reference == "pairwise" else 1.0
    assert float(tracker.multipliers.value[0, 0, 0]) == pytest.approx(share * violation, rel=1e-5)
    # The verdict is about the constraint's own tolerance.
    assert judge(tracker, counts, SPLIT).tolerance == 0.05
    assert float(tracker.strict_violation(counts, SPLIT).max()) == pytest.approx(share * 0.15)


def test_an_undefined_gap_has_no_margin() -> None:
    config = MultiplierConfig(lr=1.0, margin=1.0)
    s = torch.tensor([0, 0, 0, 0])
    tracker, counts = counted(AccuracyParity(0.1), Outputs.parse(UNEQUAL, Y4), s, config=config)
    tracker.dual_step(counts, SPLIT)
    assert (tracker.multipliers.value == 0).all()


def test_macro_demographic_parity_of_classes_says_nothing_and_is_refused() -> None:
    constraint = DemographicParity(0.1, average="macro")
    with pytest.raises(ConfigError, match="add up to 1"):
        constraint.rates(FOUR_CLASSES)
    assert len(constraint.rates(THREE_LABELS)) == 3
