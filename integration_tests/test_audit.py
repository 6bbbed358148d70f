"""From a run in the host to the report: the audit judges the pruned model by the definitions that trained it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from driving import SGD, SmallMLP, batches_for, example_of, output_layer
from fairprune_plugin import DegradationParity, EqualOpportunity, audit
from fairprune_plugin.cli import main
from fairprune_plugin.torch_pruning import BiFPPruner


def test_a_run_its_audit_and_its_page(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SmallMLP()
    dense = copy.deepcopy(model)
    constraints = [EqualOpportunity(0.5, floor=1.0), DegradationParity(0.5)]
    train, validation, test = (batches_for(model, count, seed=seed) for count, seed in ((8, 0), (4, 1), (12, 2)))
    pruner = BiFPPruner(
        model,
        example_of(model),
        pruning_ratio=0.5,
        ignored_layers=[output_layer(model)],
        constraint=constraints,
    )
    result = pruner.fit(train, SGD(model.parameters(), lr=0.05), validation=validation, epochs=2)

    same = audit(result.model, validation, constraints, dense, split="validation", bootstrap=100, history=result)
    for seen, verdict in zip(result.after.verdicts, same.verdicts, strict=True):
        assert (seen.constraint, seen.rate, seen.tolerance) == (verdict.constraint, verdict.rate, verdict.tolerance)
        assert verdict.gap == pytest.approx(seen.gap)
    assert same.measure("accuracy").value == pytest.approx(result.after.accuracy)
    assert same.measure("accuracy").reference == pytest.approx(result.before.accuracy)

    report = audit(
        result.model, iter(test), constraints, dense, bootstrap=100, history={"BiFP": result, "again": result}
    )
    assert report.samples == sum(len(y) for _, y, _ in test)
    assert report.runs[0].steps == tuple(row.step for row in result.history)
    page = report.to_html(tmp_path / "audit.html")
    for words in ("Equal opportunity", "Degradation parity", "Accuracy floor", "Sparsity reached", "run by run"):
        assert words in page
    again = audit(result.model, test, constraints, dense, bootstrap=100, history=json.loads(result.to_json()))
    assert again.to_dict()["verdicts"] == report.to_dict()["verdicts"]


def test_pruned_model_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = SmallMLP()
    pruner = BiFPPruner(
        model,
        example_of(model),
        pruning_ratio=0.5,
        ignored_layers=[output_layer(model)],
        constraint=EqualOpportunity(0.5),
    )
    result = pruner.fit(
        batches_for(model, 4), SGD(model.parameters(), lr=0.05), validation=batches_for(model, 2), epochs=1
    )
    torch.save(result.model, tmp_path / "pruned.pt")
    (tmp_path / "run.json").write_text(result.to_json())
    rows = [",".join("abcdef") + ",label,sensitive"]
    for x, y, s in batches_for(model, 6, seed=3):
        rows += [
            ",".join(map(str, (*features, int(t), int(g)))) for features, t, g in zip(x.tolist(), y, s, strict=True)
        ]
    (tmp_path / "test.csv").write_text("\n".join(rows))
    code = main(
        [
            *("audit", "--model", str(tmp_path / "pruned.pt"), "--allow-pickle", "--data", str(tmp_path / "test.csv")),
            *("--constraint", "equal_opportunity:1.0", "--history", str(tmp_path / "run.json"), "--bootstrap", "100"),
            *("--html", str(tmp_path / "audit.html")),
        ]
    )
    assert code in (0, 3)
    assert "equal_opportunity:" in capsys.readouterr().out
    assert "Sparsity reached" in (tmp_path / "audit.html").read_text(encoding="utf-8")
