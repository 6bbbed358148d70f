"""Levelling down is said when, and only when, parity came with a loss of the better-off group."""

from __future__ import annotations

import pytest
import torch

from fairprune_plugin import AccuracyParity, DegradationParity, EqualOpportunity, LossParity, audit_predictions
from fairprune_plugin.audit import FairnessAudit

N = 400  # per group


def report(dense: tuple[int, int], pruned: tuple[int, int], constraint: object = None) -> FairnessAudit:
    """Accuracies in percent of the two groups, before and after."""
    s, y = torch.arange(2).repeat_interleave(N), torch.arange(2 * N) % 2

    def logits(percent: tuple[int, int]) -> torch.Tensor:
        right = torch.cat([torch.arange(N) < N * p / 100 for p in percent])
        return torch.where(right == (y == 1), 2.0, -2.0)

    asked = constraint or AccuracyParity(0.05, groups=("worse", "better"))
    return audit_predictions(logits(pruned), y, s, asked, logits(dense), bootstrap=100)


def test_the_case_of_the_paper_trail() -> None:
    # Gap from 19 to 2 points while the better group falls from .90 to .73 and the worse one stays at .71.
    found = report((71, 90), (71, 73)).levelling_down
    assert [(flag.rate, flag.better_off, flag.worse_off) for flag in found] == [("accuracy", "better", "worse")]
    assert found[0].change == pytest.approx(-0.17)
    assert found[0].high < 0
    assert found[0].worse_off_change == 0
    text = report((71, 90), (71, 73)).to_markdown()
    assert "the better-off group better went down by 17.0 points in Accuracy" in text
    assert "worse changed by 0.0" in text


def test_no_flag_where_the_worse_group_gained_or_parity_is_not_met() -> None:
    assert report((71, 90), (88, 90)).levelling_down == ()
    assert report((71, 90), (71, 80)).levelling_down == ()  # lost, but the gap is still beyond the tolerance
    assert report((80, 80), (75, 75)).levelling_down == ()  # nobody was better off


def test_a_loss_that_may_be_chance_is_none() -> None:
    assert report((86, 90), (86, 89)).levelling_down == ()  # 4 of 400 lost
    assert len(report((86, 90), (86, 87)).levelling_down) == 1  # 12 of 400 lost, nobody gained


def test_direction_of_a_loss() -> None:
    found = report((71, 90), (71, 73), LossParity(1.0)).levelling_down
    assert [flag.rate for flag in found] == ["loss"]
    assert found[0].change > 0
    assert "went up by" in report((71, 90), (71, 73), LossParity(1.0)).to_markdown()


def test_rates_of_the_constraint_only() -> None:
    found = report((71, 90), (71, 73), EqualOpportunity(0.1)).levelling_down
    assert {flag.rate for flag in found} == {"true_positive_rate[1]"}
    assert report((71, 90), (60, 79), DegradationParity(0.1)).levelling_down == ()


def test_needs_a_reference() -> None:
    s, y = torch.arange(40) % 2, torch.arange(40) // 20
    out = audit_predictions(y * 2.0 - 1, y, s, AccuracyParity(0.5), bootstrap=100)
    assert out.levelling_down == ()
    assert out.reference_name == ""
