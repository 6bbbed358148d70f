"""The tracker: the paper's signed sum with its sign repaired, gradients against autograd, absent groups."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin.errors import ConfigError, TrainingStateError
from fairprune_plugin.fairness import parity
from fairprune_plugin.fairness.constraint import Constraint
from fairprune_plugin.fairness.constraints import (
    AccuracyParity,
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
)
from fairprune_plugin.fairness.multipliers import MultiplierConfig
from fairprune_plugin.fairness.outputs import Outputs, Task
from fairprune_plugin.fairness.tracker import ConstraintTracker

PAPER = MultiplierConfig(rule="paper")


@st.composite
def signed_data(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-odds f, labels y ∈ {−1, +1} and groups s ∈ {−1, +1}; both groups are there."""
    sign = st.sampled_from([-1.0, 1.0])
    rows = draw(st.lists(st.tuples(st.floats(-3, 3), sign, sign), min_size=1, max_size=20))
    rows += [(0.5, 1.0, 1.0), (-0.25, 1.0, -1.0)]
    f, y, s = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    return f, y, s


def share(s: torch.Tensor) -> torch.Tensor:
    """P(S = sᵢ) of each sample."""
    return torch.where(s > 0, (s > 0).double().mean(), (s < 0).double().mean())


SYMMETRIC = {"sigmoid": torch.sigmoid, "linear": lambda z: (1 + z) / 2}  # u(−z) = 1 − u(z), like the indicator


class TestSignRepair:
    """docs/method.md: (1/N) Σ u(s·y·f)/P(S = s) − 1 is a difference; without the s it is a sum."""

    @pytest.mark.parametrize("u", SYMMETRIC.values(), ids=SYMMETRIC.keys())
    @given(data=signed_data())
    def test_with_the_sign_it_is_the_difference(self, u, data) -> None:
        f, y, s = data
        signed = (u(s * y * f) / share(s)).mean() - 1
        difference = u(y * f)[s > 0].mean() - u(y * f)[s < 0].mean()
        torch.testing.assert_close(signed, difference)

    @pytest.mark.parametrize("u", SYMMETRIC.values(), ids=SYMMETRIC.keys())
    @given(data=signed_data())
    def test_as_printed_it_is_the_sum_less_one(self, u, data) -> None:
        f, y, s = data
        printed = (u(y * f) / share(s)).mean() - 1
        total = u(y * f)[s > 0].mean() + u(y * f)[s < 0].mean() - 1
        torch.testing.assert_close(printed, total)

    @pytest.mark.parametrize("name", SYMMETRIC)
    @given(data=signed_data())
    def test_the_tracker_computes_the_signed_form(self, name, data) -> None:
        """Literal rule and two-sided constraints alike; the full batch makes the running shares exact."""
        f, y, s = data
        outputs, groups = Outputs.parse(f, (y > 0).long()), (s > 0).long()
        signed = float((SYMMETRIC[name](s * y * f) / share(s)).mean() - 1)
        literal = ConstraintTracker(AccuracyParity(0.1, surrogate=name), Task(2), PAPER)
        for _ in range(2):  # a second pass over the full batch leaves the shares where they are
            assert float(literal.penalty(outputs, groups)) == pytest.approx(signed, abs=1e-5)
        # λ = 1 on "+F₁ − τ ≤ 0" alone, F₁ measured from group 0: the penalty is F₁ − τ.
        tracker = ConstraintTracker(AccuracyParity(0.1, surrogate=name, reference=0), Task(2), MultiplierConfig())
        tracker.multipliers.set(torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]]))
        assert float(tracker.penalty(outputs, groups)) == pytest.approx(signed - 0.1, abs=1e-5)
        # Pairwise: λ = 1 on group 1 being too high and group 0 too low adds up to the difference − τ.
        tracker = ConstraintTracker(AccuracyParity(0.1, surrogate=name), Task(2), MultiplierConfig())
        tracker.multipliers.set(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]))
        assert float(tracker.penalty(outputs, groups)) == pytest.approx(signed - 0.1, abs=1e-5)


NOTIONS = [AccuracyParity, DemographicParity, EqualOpportunity, EqualizedOdds]


def naive_penalty(
    constraint: Constraint, logits: torch.Tensor, targets: torch.Tensor, s: torch.Tensor, multipliers: torch.Tensor
) -> torch.Tensor:
    """The formula of docs/method.md with loops and masks, on one full batch where every group is known."""
    outputs = Outputs.parse(logits, targets)
    total = torch.zeros(())
    for row, rate in enumerate(constraint.rates(outputs.task)):
        chosen = rate.counted(outputs.targets)
        groups = range(constraint.num_groups)
        strict = [float(rate.values(outputs)[chosen & (s == g)].double().mean()) for g in groups]
        soft = [rate.surrogate_values(outputs, constraint.surrogate)[chosen & (s == g)].mean() for g in groups]
        if constraint.reference == "pairwise":
            middle = (soft[strict.index(max(strict))] + soft[strict.index(min(strict))]) / 2
            allowed = constraint.tolerance / 2
        elif constraint.reference == "overall":
            middle = rate.surrogate_values(outputs, constraint.surrogate)[chosen].mean()
            allowed = constraint.tolerance
        else:
            middle, allowed = soft[int(constraint.reference)], constraint.tolerance
        for g in groups:
            deviation = soft[g] - middle
            total = total + multipliers[0, row, g] * (deviation - allowed)
            total = total + multipliers[1, row, g] * (-deviation - allowed)
    return total


@pytest.mark.parametrize("classes", [2, 3], ids=["binary", "three-classes"])
@pytest.mark.parametrize("reference", ["pairwise", "overall", 1], ids=str)
@pytest.mark.parametrize("notion", NOTIONS, ids=lambda notion: notion.name)
def test_penalty_and_gradient_against_autograd(notion: type[Constraint], reference: str | int, classes: int) -> None:
    constraint = notion(0.07, groups=3, reference=reference)
    logits = torch.randn(90, classes, requires_grad=True)
    targets, s = torch.randint(classes, (90,)), torch.randint(3, (90,))
    tracker = ConstraintTracker(constraint, Task(classes), MultiplierConfig())
    multipliers = torch.rand(2, len(tracker.rates), 3)
    tracker.multipliers.set(multipliers)
    ours = tracker.penalty(Outputs.parse(logits, targets), s)
    expected = naive_penalty(constraint, logits, targets, s, multipliers)
    torch.testing.assert_close(ours, expected)
    (gradient,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert gradient.abs().max() > 0


def test_penalty_does_not_depend_on_how_groups_are_numbered() -> None:
    logits, targets, s = torch.randn(60), torch.randint(2, (60,)), torch.randint(3, (60,))
    multipliers = torch.rand(2, 1, 3)
    values = []
    for order in itertools.permutations(range(3)):
        new_id = torch.tensor(order)
        tracker = ConstraintTracker(DemographicParity(0.1, groups=3), Task(2), MultiplierConfig())
        tracker.multipliers.set(torch.empty_like(multipliers).index_copy_(2, new_id, multipliers))
        values.append(float(tracker.penalty(Outputs.parse(logits, targets), new_id[s])))
    assert values == pytest.approx([values[0]] * 6, abs=1e-6)


@pytest.mark.parametrize("reference", ["pairwise", "overall", 0, 2], ids=str)
@pytest.mark.parametrize("notion", NOTIONS, ids=lambda notion: notion.name)
def test_a_group_nobody_has_seen_contributes_nothing(notion: type[Constraint], reference: str | int) -> None:
    tracker = ConstraintTracker(notion(0.1, groups=3, reference=reference), Task(2), MultiplierConfig())
    tracker.multipliers.set(torch.rand(2, len(tracker.rates), 3))
    logits = torch.randn(20, requires_grad=True)
    value = tracker.penalty(Outputs.parse(logits, torch.randint(2, (20,))), torch.randint(2, (20,)))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    violation = tracker.strict_violation(tracker.counts, "train")
    assert torch.isfinite(violation).all()
    assert (violation[:, :, 2] == 0).all()


def test_a_group_absent_from_a_batch_keeps_its_place_in_the_gap() -> None:
    tracker = ConstraintTracker(AccuracyParity(0.0, reference=0), Task(2), MultiplierConfig(window=1000))
    tracker.penalty(Outputs.parse(torch.tensor([1.0, -1.0]), torch.tensor([1, 1])), torch.tensor([0, 1]))
    tracker.multipliers.set(torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]]))
    logits = torch.tensor([0.3, 2.0])
    value = tracker.penalty(Outputs.parse(logits, torch.tensor([1, 1])), torch.tensor([0, 0]))
    # Only group 0 is in the batch: F₁ = 0 − (1/N) Σ u/P(0), P(0) from the running counts (1·d + 2)/(2·d + 2).
    decay = 1 - 1 / 1000
    share = (decay + 2) / (2 * decay + 2)
    assert float(value) == pytest.approx(-float(torch.sigmoid(logits).mean()) / share, rel=1e-6)
    assert float(tracker.counts.values()[0, 1]) == 0  # group 1 keeps its rate


def test_one_known_group_is_no_violation() -> None:
    tracker = ConstraintTracker(AccuracyParity(0.05), Task(2), MultiplierConfig())
    tracker.penalty(Outputs.parse(torch.ones(4), torch.ones(4)), torch.zeros(4, dtype=torch.long))
    assert (tracker.strict_violation(tracker.counts, "train") == 0).all()
    assert tracker.gaps(tracker.counts, "train").isnan().all()


def test_strict_violation_moves_the_multipliers_of_the_violated_side() -> None:
    tracker = ConstraintTracker(AccuracyParity(0.1), Task(2), MultiplierConfig(lr=1.0))
    tracker.penalty(
        Outputs.parse(torch.tensor([1.0, 1.0, 1.0, -1.0]), torch.ones(4)), torch.tensor([0, 0, 1, 1])
    )  # accuracies 1 and ½
    tracker.dual_step(tracker.counts, "train")
    expected = torch.tensor([[[0.2, 0.0]], [[0.0, 0.2]]])  # ±F − τ/2 = 0.25 − 0.05
    torch.testing.assert_close(tracker.multipliers.value, expected)


def test_the_literal_rule_has_no_multipliers_and_two_groups_only() -> None:
    tracker = ConstraintTracker(AccuracyParity(0.0), Task(2), PAPER)
    tracker.penalty(Outputs.parse(torch.tensor([1.0, -1.0]), torch.ones(2)), torch.tensor([0, 1]))
    tracker.dual_step(tracker.counts, "train")
    assert (tracker.multipliers.value == 0).all()
    with pytest.raises(ConfigError, match="two groups, got 3"):
        ConstraintTracker(AccuracyParity(0.1, groups=3), Task(2), PAPER)


class TestDegradation:
    """R_g = A(dense, g) − A(pruned, g): what counts is the change, not the level."""

    def test_unmeasured_dense_rates_are_refused(self) -> None:
        tracker = ConstraintTracker(DegradationParity(0.1), Task(2), MultiplierConfig())
        with pytest.raises(TrainingStateError, match="measure_dense"):
            tracker.penalty(Outputs.parse(torch.ones(2), torch.ones(2)), torch.tensor([0, 1]))

    def test_gap_is_that_of_the_changes(self) -> None:
        tracker = ConstraintTracker(DegradationParity(0.1), Task(2), MultiplierConfig())
        tracker.dense_rates["test"] = torch.tensor([[0.9, 0.6]], dtype=torch.float64)
        counts = tracker.new_counts()
        counts.hits, counts.totals = torch.tensor([[80.0, 55.0]]).double(), torch.tensor([[100.0, 100.0]]).double()
        # Dense gap .3, pruned gap .25; the groups lost .10 and .05.
        assert float(tracker.gaps(counts, "test")) == pytest.approx(0.05)
        violation = tracker.strict_violation(counts, "test")
        # Group 1 lost less: it is .025 above the middle of the changes, allowed is .05.
        expected = torch.tensor([[[-0.075, -0.025]], [[-0.025, -0.075]]], dtype=torch.float64)
        torch.testing.assert_close(violation, expected)


def test_violations_and_gap_agree() -> None:
    for reference in ("pairwise", "overall", 1):
        tracker = ConstraintTracker(EqualizedOdds(0.1, groups=4, reference=reference), Task(2), MultiplierConfig())
        counts = tracker.new_counts()
        counts.update(Outputs.parse(torch.randn(100), torch.randint(2, (100,))), torch.randint(4, (100,)))
        largest = tracker.strict_violation(counts, "test").amax(dim=(0, 2))
        excess = tracker.gaps(counts, "test") - 0.1
        torch.testing.assert_close(largest * (2 if reference == parity.PAIRWISE else 1), excess)


def test_state_round_trip_continues_identically() -> None:
    def batches() -> list[tuple[Outputs, torch.Tensor]]:
        generator = torch.Generator().manual_seed(3)
        return [
            (
                Outputs.parse(torch.randn(16, generator=generator), torch.randint(2, (16,), generator=generator)),
                torch.randint(2, (16,), generator=generator),
            )
            for _ in range(6)
        ]

    def run(tracker: ConstraintTracker, part: list[tuple[Outputs, torch.Tensor]]) -> list[float]:
        out = []
        for outputs, s in part:
            out.append(float(tracker.penalty(outputs, s)))
            tracker.dual_step(tracker.counts, "train")
        return out

    def tracker() -> ConstraintTracker:
        return ConstraintTracker(DemographicParity(0.0), Task(2), MultiplierConfig(lr=1.0))

    whole, first, second = tracker(), tracker(), tracker()
    expected = run(whole, batches())
    run(first, batches()[:3])
    second.load_state_dict(first.state_dict())
    assert run(second, batches()[3:]) == expected[3:]
    assert any(value != 0 for value in expected[3:])


def everybody_alike(rule: str, *, every: int) -> list[float]:
    """Slopes of the penalty along a logit that all people share, the second group being in every k-th batch only."""
    tracker = ConstraintTracker(EqualOpportunity(0.1), Task(2), MultiplierConfig(rule=rule))
    logit = torch.tensor(1.0, requires_grad=True)
    slopes = []
    for number in range(100):
        s = torch.zeros(64, dtype=torch.long)
        s[:32] = int(number % every == 0)
        outputs = Outputs.parse(logit.expand(64), torch.ones(64, dtype=torch.long))
        slopes.append(float(torch.autograd.grad(tracker.penalty(outputs, s), logit)[0]))
    return slopes


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("rule", ["dual_ascent", "augmented"])
def test_a_group_that_a_batch_lacks_pushes_nobody(rule: str, every: int) -> None:
    """A square of one batch's rates would take the luck of who is in it for a violation."""
    assert everybody_alike(rule, every=every) == [0.0] * 100


@pytest.mark.parametrize(("rate", "pushed"), [(0.85, False), (0.6, True)], ids=["above the floor", "below"])
def test_an_augmented_penalty_of_changes_pushes_only_where_the_floor_is_violated(rate: float, pushed: bool) -> None:
    tracker = ConstraintTracker(DegradationParity(0.1), Task(2), MultiplierConfig(rule="augmented"))
    tracker.dense_rates["train"] = torch.full((1, 2), 0.9, dtype=torch.float64)
    y = torch.ones(200, dtype=torch.long)
    s = torch.arange(200) % 2
    right = torch.cat([torch.arange(100) < 100 * (rate if group else 0.9) for group in (0, 1)])
    order = torch.cat([(s == group).nonzero().reshape(-1) for group in (0, 1)])
    logits = torch.empty(200)
    logits[order] = right.float() * 4 - 2
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(tracker.penalty(Outputs.parse(logits, y), s), logits)
    assert bool(slope[s == 1].any()) == pushed
    assert bool((slope[s == 1] <= 0).all())  # a step down the slope raises their rate
