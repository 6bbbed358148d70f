"""The command of longer training: how long it is, with which rates, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evidence_synthetic import problem

from evidence import command, cost, longer, records


def test_every_method_has_as_many_passes_as_the_two_stage_baselines_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(longer, "collect", lambda args, jobs, methods: asked.extend(jobs) or [])
    monkeypatch.setattr(command, "RATES", tmp_path / "rates.json")
    found = {"resnet10": {"bifp": 0.3, "lamp": 0.3}, "resnet10, 480 passes": {"bifp": 0.4}}
    (tmp_path / "rates.json").write_text(json.dumps(found))
    longer.main(["--faces", str(tmp_path)])
    assert {job.method for job in asked} == set(longer.COMPARED)
    assert {job.budget.passes for job in asked} == {max(cost.LADDER)}
    assert {job.budget.lr for job in asked if job.method in found["resnet10"]} == {0.4, 0.3}


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    monkeypatch.setattr(records, "load_problem", lambda setting, seed, **_: replace(given, setting=setting, seed=seed))
    raw, page = tmp_path / "raw.jsonl", tmp_path / "page.md"
    arguments = ["--settings", "census", "--seeds", "0", "1", "--passes", "8", "--raw", str(raw), "--page", str(page)]
    longer.main([*arguments, "--ratios", "0.5", "--methods", "dense", "bifp", "magnitude"])
    assert {row["budget"]["passes"] for row in records.read(raw)} == {8}
    assert page.read_text().startswith("# Accuracy and gap after longer training")
    assert "50% of the parameters removed:" in page.read_text()
