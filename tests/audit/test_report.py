"""The report as data, as Markdown and as a model card."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from audit_data import LONG, binary, large_audit, multi_class, result, small_audit
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from fairprune_plugin import (
    AccuracyParity,
    EqualOpportunity,
    FairnessAudit,
    LossParity,
    Rate,
    RateParity,
    audit_predictions,
)
from fairprune_plugin.audit.markdown import escaped
from fairprune_plugin.audit.model_card import _yaml


@pytest.fixture(scope="module")
def small() -> FairnessAudit:
    return small_audit(history={"BiFP": result(), "magnitude": result(gap=0.1)})


@pytest.fixture(scope="module")
def large() -> FairnessAudit:
    return large_audit()


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


def test_json_is_strict_and_complete(small: FairnessAudit) -> None:
    plain = json.loads(small.to_json(), parse_constant=refuse)
    assert plain == json.loads(json.dumps(small.to_dict()))
    assert plain["status"] == small.status
    assert [v["constraint"] for v in plain["verdicts"]] == ["equal_opportunity", "accuracy_parity"]
    measures = plain["groupings"][0]["measures"]
    assert len(measures) == 3 * 7
    assert plain["runs"][0]["gaps"][0][0] is None


def test_undefined_values_become_null() -> None:
    logits, y = torch.tensor([-1.0, -2.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 0])
    report = audit_predictions(logits, y, torch.tensor([0, 0, 1, 1]), EqualOpportunity(0.1), bootstrap=100)
    plain = json.loads(report.to_json(), parse_constant=refuse)
    assert plain["verdicts"][0]["gap"] is None
    assert report.measure("true_positive_rate", "1").value == 1.0


def test_same_seed_same_report() -> None:
    assert small_audit().to_json() == small_audit().to_json()
    assert small_audit(seed=1).to_json() != small_audit().to_json()


def test_files_are_what_is_returned(small: FairnessAudit, tmp_path: Path) -> None:
    for form in ("json", "markdown", "html", "model_card"):
        path = tmp_path / form
        text = getattr(small, f"to_{form}")(path)
        assert path.read_text(encoding="utf-8") == text


def test_status_is_the_worst_verdict() -> None:
    logits, y, s, _ = binary(600)
    asked = {"met": AccuracyParity(0.9), "violated": AccuracyParity(0.0), "not decidable": AccuracyParity(0.06)}
    logits = logits + torch.where(s == 0, 0.0, 1.5) * (2 * y - 1)

    def status(*names: str) -> str:
        return audit_predictions(logits, y, s, [asked[name] for name in names], bootstrap=100).status

    assert status("met") == "met"
    assert status("met", "violated") == "violated"


def test_measure_says_what_there_is(small: FairnessAudit) -> None:
    assert small.measure("accuracy", "female").group == "female"
    with pytest.raises(KeyError, match="no 'f1' of 'everyone': there are accuracy, calibration_error"):
        small.measure("f1")
    with pytest.raises(KeyError):
        small.measure("accuracy", attribute="race")


def test_markdown_tables_have_one_row_per_group_and_the_same_width(large: FairnessAudit) -> None:
    rows = [line for line in large.to_markdown().splitlines() if line.startswith("| ")]
    assert [row.startswith(f"| {escaped(name)} |") for name in LONG for row in rows].count(True) == 14
    widths = [line.replace("\\|", "").count("|") for line in rows]
    assert widths == [7] * 3 + [10] * 17
    assert "<script>" not in large.to_markdown()


def test_markdown_says_verdict_gap_and_need(small: FairnessAudit) -> None:
    text = small.to_markdown()
    for verdict in small.verdicts:
        assert verdict.status in text
    assert "95 % interval" in text
    assert "times the samples would" in text
    assert str(small) == text


def test_multi_class_tables_use_the_class_names() -> None:
    logits, y, s = multi_class(300)
    report = audit_predictions(
        logits, y, s, EqualOpportunity(0.2, groups=3), class_names=["cat", "dog", "bird"], bootstrap=100
    )
    text = report.to_markdown()
    assert "### cat" in text
    assert "True positive rate · " in text
    assert "class 2" not in text


def test_model_card_is_read_by_the_hub(small: FairnessAudit) -> None:
    text = small.to_model_card(
        task_type="image-classification", dataset_name="CelebA", dataset_type="celeba", model_name="resnet10"
    )
    card = ModelCard(text)
    assert card.data.model_name == "resnet10"
    results = {(item.metric_type, item.metric_name): item for item in card.data.eval_results}
    overall = results["accuracy", "Accuracy"]
    assert (overall.task_type, overall.dataset_name, overall.dataset_type, overall.dataset_split) == (
        "image-classification",
        "CelebA",
        "celeba",
        "test",
    )
    assert overall.metric_value == pytest.approx(small.measure("accuracy").value, abs=1e-6)
    worst = min(("female", "male"), key=lambda g: small.measure("accuracy", g).value)
    assert results["accuracy", f"Worst-group accuracy ({worst})"].metric_value <= overall.metric_value
    gaps = [item for (kind, _), item in results.items() if kind.endswith("_gap")]
    assert [item.metric_value for item in gaps] == pytest.approx([v.gap for v in small.verdicts], abs=1e-6)
    assert small.verdicts[0].status in gaps[0].metric_name
    assert "## Verdicts" in card.content


def test_model_card_of_hostile_names_and_undefined_gaps(large: FairnessAudit) -> None:
    assert ModelCard(large.to_model_card()).data.eval_results
    report = audit_predictions(
        3 * torch.ones(20),
        torch.zeros(20).long(),
        torch.arange(20) % 2,
        EqualOpportunity(0.1),
        model_name='a: "b"\n---',
        bootstrap=100,
    )
    card = ModelCard(report.to_model_card())
    assert card.data.model_name == 'a: "b" ---'
    assert all(math.isfinite(item.metric_value) for item in card.data.eval_results)


@given(
    st.recursive(
        st.text(max_size=8) | st.floats(-1e9, 1e9),
        lambda t: st.lists(t, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), t, min_size=1),
        max_leaves=8,
    ).filter(lambda v: isinstance(v, dict | list))
)
@settings(max_examples=60)
def test_front_matter_is_yaml(value: object) -> None:
    read = yaml.safe_load(_yaml(value))

    def same(a: object, b: object) -> bool:
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, str):
            return isinstance(b, str) and len(a) == len(b)  # what YAML cannot print has become a blank
        return float(a) == float(b)  # type: ignore[arg-type]

    assert same(value, read)


def test_rates_that_no_table_has_get_a_place() -> None:
    logits, y, s, reference = binary(400)
    margin = Rate(lambda out: out.margin(None), name="margin", surrogate=lambda out: out.margin(None), indicator=False)
    constraints = [EqualOpportunity(0.2, positive=0), RateParity(0.5, rate=margin)]
    report = audit_predictions(logits, y, s, constraints, reference, bootstrap=100)
    negatives = (y == 0) & (s == 1)
    expected = float((logits[negatives] <= 0).double().mean())
    assert report.measure("true_positive_rate", "1", cls=0).value == pytest.approx(expected)
    item = report.measure("margin", "1")
    assert item.value == pytest.approx(float(((2 * y - 1) * logits)[s == 1].mean()))
    assert item.change_low < item.change < item.change_high
    assert (item.scale, report.verdicts[1].scale) == ("number", "number")
    text = report.to_markdown()
    assert "| Margin |" in text
    assert "True positive rate · class 0" in text
    assert f"{item.value:.3f} (" in text
    assert "Margin per group" in report.to_html()


def test_the_same_people_are_once_in_the_model_card() -> None:
    logits, y, s, _ = binary(400)
    constraints = [AccuracyParity(0.2), EqualOpportunity(0.2, groups=("female", "male"))]
    for given_ in (constraints, constraints[::-1]):
        report = audit_predictions(logits, y, s, given_, bootstrap=100)
        assert len(report.groupings) == 2
        card = report.to_model_card()
        assert card.count("Worst-group accuracy") == 1
        assert "Worst-group accuracy (female)" in card
    other = {"s": s, "t": s.roll(1)}
    by_two = [AccuracyParity(0.2, groups={"s": 2}), AccuracyParity(0.2, groups={"t": 2})]
    card = audit_predictions(logits, y, other, by_two, bootstrap=100).to_model_card()
    assert card.count("Worst-group accuracy by") == 2


def test_losses_are_in_nats() -> None:
    logits, y, s, _ = binary(400)
    text = audit_predictions(logits, y, s, LossParity(0.2), bootstrap=100).to_markdown()
    assert "tolerance 0.200 nats" in text
    two = torch.stack([logits, logits], 1)
    labels = audit_predictions(two, torch.stack([y, y], 1), s, LossParity(0.2), bootstrap=100)
    assert labels.verdicts[0].scale == "nats"
