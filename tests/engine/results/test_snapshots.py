"""Which model of a run is kept: within the tolerance first, then accuracy less the excess, then the latest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fairprune_plugin.engine.results.snapshots import (
    AUTO,
    BOTH,
    GAP,
    SELECTIONS,
    SETTLED,
    UPPER_BOUND,
    BestSnapshot,
    bar,
    rank,
    rule_for,
)
from fairprune_plugin.fairness.counts import RateCounts
from fairprune_plugin.fairness.evaluation import Evaluation, RateOfGroup
from fairprune_plugin.fairness.intervals import Z95
from fairprune_plugin.fairness.verdict import Verdict

NAN = float("nan")


def evaluation(accuracy: float, *gaps: float) -> Evaluation:
    verdicts = tuple(Verdict("c", "r", gap, 0.01, 0.1, gap <= 0.1, "", gap + 0.01) for gap in gaps)
    return Evaluation("validation", 10, accuracy, (), verdicts, ())


def test_order_of_preference() -> None:
    from_best = [
        evaluation(0.9, 0.02, 0.1),
        evaluation(0.8, 0.0, 0.0),  # how far inside the tolerance does not matter
        evaluation(0.99, 0.12),
        evaluation(0.9, 0.12, 0.01),  # the worst gap of several counts, and an excess is worth its size in accuracy
        evaluation(0.99, 0.3),
        evaluation(0.99, NAN),
    ]
    assert sorted(from_best, key=rank, reverse=True) == from_best


@pytest.mark.parametrize("select_by", SELECTIONS)
def test_one_class_for_everybody_is_the_last_choice(select_by: str) -> None:
    useless, real = (
        Evaluation(
            "validation",
            20,
            accuracy,
            tuple(RateOfGroup("selection_rate", group, rate, 10, 0.0, 1.0) for group in ("a", "b")),
            (Verdict("c", "r", gap, 0.01, 0.1, gap <= 0.1, "", gap + 0.01),),
            (),
        )
        for accuracy, rate, gap in ((0.9, 0.0, 0.0), (0.6, 0.5, 0.3))
    )
    assert useless.degenerate
    assert rank(real, select_by, 0.2) > rank(useless, select_by, 0.0)


def test_the_best_state_is_copied_and_brought_back_into_the_live_tensors() -> None:
    model, best = nn.BatchNorm1d(2), BestSnapshot()
    keep = torch.tensor([True, False])
    model.weight.data.fill_(1.0)
    model.running_mean.fill_(1.0)
    assert best.offer(model, keep, evaluation(0.8, 0.05), 1)
    keep[1] = True
    model.weight.data.fill_(2.0)
    model.running_mean.fill_(2.0)
    assert not best.offer(model, keep, evaluation(0.99, 0.2), 2)
    live = model.weight
    best.restore(model)
    assert model.weight is live
    assert model.weight.tolist() == model.running_mean.tolist() == [1.0, 1.0]
    assert best.best is not None
    assert (best.best.step, best.best.keep.tolist()) == (1, [True, False])


class Versioned(nn.Linear):
    """Keeps something beside its tensors, in a state of its own."""

    def __init__(self, extra: Any) -> None:
        super().__init__(1, 1)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.mark.parametrize(
    ("first", "change", "expected"),
    [
        ({"seen": [1]}, lambda extra: extra["seen"].append(2), {"seen": [1]}),
        (torch.ones(2), lambda extra: extra.add_(1), torch.ones(2)),
    ],
    ids=["plain", "tensor"],
)
def test_what_a_module_keeps_beside_its_tensors_comes_back(first: Any, change: Any, expected: Any) -> None:
    model, best = nn.Sequential(Versioned(first)), BestSnapshot()
    live = model[0].weight
    live.data.fill_(1.0)
    best.offer(model, torch.ones(1), evaluation(0.8, 0.05), 1)
    change(model[0].extra)
    for _ in range(2):
        live.data.fill_(2.0)
        best.restore(model)
        torch.testing.assert_close(model[0].extra, expected)
        assert model[0].weight is live
        assert live.item() == 1.0
        change(model[0].extra)  # what was restored is the module's own


def test_ties_go_to_the_later_one() -> None:
    model, best = nn.Linear(1, 1), BestSnapshot()
    for step, offered in enumerate([evaluation(0.8, 0.01), evaluation(0.8, 0.09), evaluation(0.7, 0.0)]):
        best.offer(model, torch.ones(1), offered, step)
    assert best.best is not None
    assert best.best.step == 1


def with_upper(accuracy: float, *pairs: tuple[float, float]) -> Evaluation:
    """Gaps with their upper bounds, against a tolerance of 0.1."""
    verdicts = tuple(Verdict("c", "r", gap, upper - gap, 0.1, gap <= 0.1, "", upper) for gap, upper in pairs)
    return Evaluation("validation", 10, accuracy, (), verdicts, ())


def test_by_the_upper_bound_certainty_comes_before_accuracy() -> None:
    from_best = [
        with_upper(0.7, (0.05, 0.09)),
        with_upper(0.9, (0.01, 0.12)),
        with_upper(0.8, (0.01, 0.12)),
        with_upper(0.87, (0.05, 0.09), (0.01, 0.2)),  # more accurate by .07, with .08 more of excess
    ]
    assert sorted(from_best, key=lambda e: rank(e, UPPER_BOUND), reverse=True) == from_best
    by_gap = [from_best[1], from_best[3], from_best[2], from_best[0]]  # all within the tolerance: accuracy decides
    assert sorted(from_best, key=rank, reverse=True) == by_gap


def test_an_upper_bound_that_is_never_known_leaves_the_choice_to_the_gap() -> None:
    """A class without samples in one group: no snapshot of the run has an upper bound."""
    from_best = [with_upper(0.7, (0.05, NAN)), with_upper(0.9, (0.12, NAN)), with_upper(0.99, (0.3, NAN))]
    assert sorted(from_best, key=lambda e: rank(e, UPPER_BOUND), reverse=True) == from_best
    assert rank(with_upper(0.5, (0.3, 0.5)), UPPER_BOUND) > rank(from_best[0], UPPER_BOUND)


def test_the_best_by_upper_bound_is_kept() -> None:
    model, best = nn.Linear(1, 1), BestSnapshot(UPPER_BOUND)
    assert best.offer(model, torch.ones(1), with_upper(0.9, (0.01, 0.2)), 0)
    assert best.offer(model, torch.ones(1), with_upper(0.7, (0.05, 0.1)), 1)
    assert not best.offer(model, torch.ones(1), with_upper(0.9, (0.0, 0.11)), 2)


def test_a_gap_that_training_batches_see_as_well_counts_under_both() -> None:
    model = nn.Linear(1, 1)
    lucky, honest = evaluation(0.9, 0.05), evaluation(0.88, 0.05)
    for select_by, chosen in ((BOTH, 1), ("gap", 0)):
        best = BestSnapshot(select_by)
        best.offer(model, torch.ones(1), lucky, 0, training_excess=0.04)
        best.offer(model, torch.ones(1), honest, 1, training_excess=0.0)
        best.offer(model, torch.ones(1), evaluation(0.95, 0.13), 2, training_excess=0.0)  # .03 over on validation
        assert best.best is not None
        assert best.best.step == chosen
    # Feasible on validation comes first, whatever training data say.
    assert rank(evaluation(0.99, 0.13), BOTH) < rank(evaluation(0.1, 0.05), BOTH, 0.02) < rank(lucky, BOTH, 0.04)


@pytest.mark.parametrize("select_by", SELECTIONS)
def test_an_excess_is_worth_its_size_in_accuracy(select_by: str) -> None:
    # The first moment at the target: by luck nearest to the tolerance (.1), points below the others in accuracy.
    first, settled = evaluation(0.83, 0.11), evaluation(0.9, 0.12)
    assert rank(first, select_by) < rank(settled, select_by)
    less, more = evaluation(0.88, 0.12), evaluation(0.89, 0.14)  # .02 of gap for .01 of accuracy
    assert rank(more, select_by) < rank(less, select_by)


def test_could_win_is_whether_an_offer_without_training_excess_would_be_taken() -> None:
    model, best = nn.Linear(1, 1), BestSnapshot(BOTH)
    assert best.could_win(evaluation(0.1, 0.9))
    best.offer(model, torch.ones(1), evaluation(0.9, 0.05), 0, training_excess=0.02)
    assert best.could_win(evaluation(0.89, 0.1))  # within the tolerance, and perhaps on training data as well
    assert not best.could_win(evaluation(0.87, 0.1))  # even if so
    assert not best.could_win(evaluation(0.99, 0.11))


def noisy(accuracy: float, gap: float, standard_error: float = 0.05) -> Evaluation:
    verdict = Verdict("c", "r", gap, Z95 * standard_error, 0.1, gap <= 0.1, "", gap + Z95 * standard_error)
    return Evaluation("validation", 10, accuracy, (), (verdict,), ())


def kept(*offered: Evaluation, select_by: str = SETTLED) -> int:
    model, best = nn.Linear(1, 1), BestSnapshot(select_by)
    for step, evaluation in enumerate(offered):
        could = best.could_win(evaluation)
        assert best.offer(model, torch.ones(1), evaluation, step) == could
    assert best.best is not None
    return best.best.step


def test_the_last_moment_within_a_standard_error_of_the_best_is_the_settled_one() -> None:
    lucky, later, worse = noisy(0.7, 0.1), noisy(0.72, 0.16), noisy(0.7, 0.17)  # worth 0.70, 0.66 and 0.63
    assert kept(lucky, later, worse) == 1
    assert kept(lucky, worse, later) == 2
    assert kept(lucky, later, worse, select_by=GAP) == 0
    assert kept(lucky, noisy(0.72, 0.16, 0.001)) == 1  # the bar is the best one's uncertainty, not its own


def test_moments_do_not_slip_down_one_standard_error_after_the_other() -> None:
    """Each is within one of the moment before, the last not of the first."""
    assert kept(noisy(0.7, 0.1), noisy(0.66, 0.1), noisy(0.62, 0.1)) == 1


def test_nothing_is_first_for_a_gap_that_is_within_by_luck() -> None:
    inaccurate = noisy(0.5, 0.09)
    assert kept(noisy(0.7, 0.12), inaccurate) == 0
    assert kept(noisy(0.7, 0.12), inaccurate, select_by=GAP) == 1


def test_gaps_without_noise_leave_the_best_and_among_equals_the_last() -> None:
    assert kept(noisy(0.7, 0.1, 0.0), noisy(0.69, 0.1, 0.0), noisy(0.7, 0.1, 0.0), noisy(0.7, 0.11, 0.0)) == 2


def test_an_undefined_gap_is_a_later_choice_than_any_defined_one() -> None:
    undefined = Evaluation("validation", 10, 0.9, (), (Verdict("c", "r", NAN, NAN, 0.1, False, "", NAN),), ())
    assert undefined.standard_error == 0.0
    assert kept(undefined, noisy(0.5, 0.4), undefined) == 1
    assert rank(undefined, SETTLED) < bar(noisy(0.5, 0.4), SETTLED)


@pytest.mark.parametrize(
    ("groups", "few", "expected"), [(2, BOTH, BOTH), (2, GAP, GAP), (3, BOTH, SETTLED), (14, GAP, SETTLED)]
)
def test_the_number_of_groups_decides_how_moments_are_chosen(groups: int, few: str, expected: str) -> None:
    several = Evaluation("validation", 10, 0.9, (), (), (RateCounts((), 2), RateCounts((), groups)))
    assert rule_for(several, AUTO, few) == expected
    assert rule_for(several, UPPER_BOUND, few) == UPPER_BOUND
    assert rule_for(evaluation(0.9), AUTO, few) == few  # nothing is compared


def test_without_constraints_accuracies_settle_by_their_own_standard_error() -> None:
    """Of 100 people, 0.05 at one half."""
    half, less, much_less = (Evaluation("validation", 100, accuracy, (), (), ()) for accuracy in (0.5, 0.46, 0.44))
    assert half.standard_error == pytest.approx(0.05)
    assert kept(half, less, much_less) == 1
    assert kept(half, less, much_less, select_by=AUTO) == 0
    assert Evaluation("validation", 0, NAN, (), (), ()).standard_error == 0.0
