"""A user's own rates: a column each, under the name they were given."""

from __future__ import annotations

import pytest
import torch
from audit_data import binary

from fairprune_plugin import FairnessAudit, Rate, RateParity, audit_predictions
from fairprune_plugin.audit.compared import named_apart


def above(threshold: float, name: str = "rate") -> Rate:
    return Rate(lambda out: out.probability(1) > threshold, surrogate=lambda out: out.probability(1), name=name)


def audited(*rates: Rate, tolerance: float = 0.9) -> FairnessAudit:
    logits, y, s, reference = binary(200)
    constraints = [RateParity(tolerance, groups=("f", "m"), rate=rate) for rate in rates]
    return audit_predictions(logits, y, s, constraints, reference, bootstrap=100)


def share(threshold: float) -> float:
    return float((binary(200)[0].sigmoid() > threshold).double().mean())


@pytest.mark.parametrize(
    "name", ["recall[macro]", "recall[a]", "hits@5", "err[1]", "a[b]@c", "precision@1", "true_positive_rate[1]"]
)
def test_a_name_is_shown_as_it_stands(name: str) -> None:
    report = audited(above(0.8, name))
    assert report.measure(name).value == pytest.approx(share(0.8))
    assert report.measure(name).key == (name, None, None)
    assert report.verdicts[0].rate == name
    shown = name[0].upper() + name[1:].replace("_", " ")
    assert f"{shown}: gap" in " ".join(report.to_markdown().replace("\\", "").split())
    assert shown in report.to_html()
    assert f"gap in {shown}" in report.to_model_card()
    assert report.levelling_down == ()


def test_a_quantity_that_every_audit_has_keeps_its_name() -> None:
    report = audited(above(0.8, "accuracy"))
    logits, y, _, _ = binary(200)
    assert report.measure("accuracy").value == pytest.approx(float(((logits > 0) == (y == 1)).double().mean()))
    assert report.measure("accuracy (own)").value == pytest.approx(share(0.8))
    assert report.verdicts[0].rate == "accuracy (own)"
    assert report.levelling_down == ()


def test_two_rates_of_one_name_have_two_columns_and_one_rate_has_one() -> None:
    first, second, third = above(0.6), above(0.8), above(0.9, "rate (2)")
    report = audited(first, second, third)
    assert [verdict.rate for verdict in report.verdicts] == ["rate", "rate (2)", "rate (2) (2)"]
    for name, threshold in (("rate", 0.6), ("rate (2)", 0.8), ("rate (2) (2)", 0.9)):
        assert report.measure(name).value == pytest.approx(share(threshold))
    same = named_apart([RateParity(0.1, rate=first), RateParity(0.2, rate=first, groups=3)])
    assert [constraint.rate for constraint in same if isinstance(constraint, RateParity)] == [first, first]


def test_a_rate_of_one_label_stands_with_that_label() -> None:
    logits, y, s, _ = binary(200)
    both, labels = torch.stack([logits, logits + 1], 1), torch.stack([y, y], 1)
    constraint = RateParity(0.9, rate=above(0.8, "err[0]"), label=1)
    report = audit_predictions(both, labels, s, constraint, class_names=["smiling", "bald"], bootstrap=100)
    assert report.measure("err[0]").key == ("err[0]", None, 1)
    assert report.measure("err[0]").value == pytest.approx(float(((logits + 1).sigmoid() > 0.8).double().mean()))
    assert "Err[0] · bald: gap" in report.to_markdown().replace("\\", "")
    assert "Err[0]" in report.to_html()


def test_a_hostile_name_stays_text() -> None:
    report = audited(above(0.8, "a|b <script>"))
    header = next(line for line in report.to_markdown().splitlines() if line.startswith("| Group |"))
    assert r"| A\|b &lt;script&gt; |" in header
    assert "<script>" not in report.to_markdown() + report.to_html()
