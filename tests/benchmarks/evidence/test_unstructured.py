"""The command for single weights: its runs, its page, and the learning rates it reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evidence_synthetic import problem

from evidence import command, records, search, unstructured
from evidence.problems import SETTINGS


@pytest.fixture
def census_is_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    monkeypatch.setattr(records, "load_problem", lambda setting, seed, **_: replace(given, setting=setting, seed=seed))


@pytest.mark.usefixtures("census_is_synthetic")
def test_a_run_is_resumed_and_written_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, page = tmp_path / "raw.jsonl", tmp_path / "page.md"
    arguments = ["--settings", "census", "--seeds", "0", "1", "--passes", "8", "--raw", str(raw), "--page", str(page)]
    arguments += ["--ratios", "0.5", "0.9", "--methods", "dense", "random", "bifp"]
    unstructured.main(arguments)
    assert capsys.readouterr().out.count("\n") == 2 * (1 + 2 * 2)  # a dense model has no ratio
    rows = records.read(raw)
    assert {row["budget"]["target"] for row in rows} == {"weights"}
    text = page.read_text()
    assert "90% of the weights removed:" in text
    assert "| weights left |" in text
    assert "| random | 2 |" in text
    weights = next(row["weights"] for row in rows if row["method"] == "bifp" and row["budget"]["ratio"] == 0.9)
    assert f"| {weights} | 8 |" in text
    assert (tmp_path / "page" / "census-income-gender-mlp.svg").exists()
    unstructured.main(arguments)
    assert capsys.readouterr().out == ""
    assert records.read(raw) == rows


@pytest.mark.usefixtures("census_is_synthetic")
def test_the_search_of_single_weights_has_rates_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structured, weights = tmp_path / "structured.json", tmp_path / "weights.json"
    monkeypatch.setattr(command, "RATES", structured)
    monkeypatch.setattr(command, "WEIGHT_RATES", weights)
    monkeypatch.setattr(search, "CANDIDATES", {"mlp": (0.001, 0.05)})
    weights.write_text(json.dumps({"mlp on census, 8 passes": {"snip": 0.7, "random": 0.7}}))
    given = ["--settings", "census", "--seeds", "0", "--passes", "8", "--raw", str(tmp_path / "raw.jsonl")]
    search.main([*given, "--weights", "--methods", "random"])
    found = json.loads(weights.read_text())["mlp on census, 8 passes"]
    tried = {row["budget"]["lr"] for row in records.read(tmp_path / "raw.jsonl")}
    assert tried > {0.001, 0.05}, "the best of two is at an end"
    assert found["random"] in tried
    assert len(tried) == search.MOST or min(tried) < found["random"] < max(tried)
    assert found["snip"] == 0.7  # a search of some methods leaves the others' rates
    assert not structured.exists()
    assert command.budget(SETTINGS["census"], "random", 0.5, 8, "weights").lr == found["random"]
    assert command.budget(SETTINGS["census"], "random", 0.5, None).lr == command.DEFAULT_RATE["mlp"]


def test_an_unknown_method_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        unstructured.main(["--methods", "magnitud"])
    assert "magnitud" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        search.main(["--methods", "gradual magnitude"])
    assert "gradual magnitude: without --weights" in capsys.readouterr().err
