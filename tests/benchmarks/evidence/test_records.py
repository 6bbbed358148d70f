"""Records: a run that is in the file is not repeated, and pages are made of the file alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from evidence_synthetic import problem

from evidence import records
from evidence.comparison_page import write
from evidence.cost import first_reaching
from evidence.outcomes import Outcome
from evidence.records import Job, collect, read, run_all
from evidence.search import best_rate
from evidence.sparsity import PAGE
from evidence.tuning import Budget


@pytest.fixture(scope="module")
def given() -> Any:
    return problem()


def test_what_is_in_the_file_is_not_run_again(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def method(asked: Any, budget: Budget) -> Outcome:
        calls.append(budget.ratio)
        return Outcome(asked.dense, 7, {"note": "kept"})

    monkeypatch.setattr(records, "load_problem", lambda *args, **options: given)
    path = tmp_path / "runs" / "raw.jsonl"
    options: dict[str, Any] = {"faces": None, "dense_folder": tmp_path}
    jobs = [Job(given.setting, "same", Budget(ratio, 7, 0.1), 0) for ratio in (0.5, 0.9, 0.5)]
    rows = run_all(jobs, {"same": method}, path, **options)
    assert calls == [0.5, 0.9]
    assert [row["budget"]["ratio"] for row in rows] == [0.5, 0.9]
    assert rows == run_all(jobs, {"same": method}, path, **options) == read(path)
    assert calls == [0.5, 0.9]
    assert rows[0]["note"] == "kept"
    assert set(rows[0]["splits"]) == {"train", "validation", "test"}
    assert collect(argparse.Namespace(only_page=True, raw=path), [], {}) == rows
    page = tmp_path / "page.md"
    compared = [{**row, "method": name} for row in rows for name in ("bifp", "other")]
    for shown, picture in ((compared, "accuracy and gap against sparsity"), (compared[:2], "accuracy against gap")):
        write(page, shown, PAGE)
        text = page.read_text()
        assert "| other | 1 |" in text
        assert "| other | 1 | 1 | 0 | 1 | 0 | 0 | – | – | – |" in text, "the same numbers: no difference at any size"
        assert f"![{picture}](page/synthetic-class-group-mlp.svg)" in text
        (tmp_path / "page" / "synthetic-class-group-mlp.svg").unlink()


def test_the_rate_is_the_best_on_validation() -> None:
    def row(lr: float, accuracy: float, gap: float, method: str) -> dict[str, Any]:
        splits = {"validation": {"accuracy": accuracy, "gap": gap, "degenerate": accuracy == 0.7}}
        return {"method": method, "budget": {"lr": lr}, "setting": {"tolerance": 0.1}, "splits": splits}

    for method, chosen in (("magnitude", 0.2), ("magnitude + constraint", 0.1)):
        rows = [row(0.1, 0.8, 0.1, method), row(0.2, 0.9, 0.3, method), row(0.3, 0.7, 0.0, method)]
        assert best_rate(rows) == chosen


def test_the_cost_is_the_smallest_budget_that_is_good_in_both() -> None:
    rungs = {25: (0.9, 0.2, 1.0, 5), 50: (0.7, 0.0, 1.0, 5), 100: (0.85, 0.01, 2.0, 5), 200: (0.9, 0.0, 4.0, 5)}
    assert first_reaching(rungs, 0.85, 0.01) == 100
    assert first_reaching(rungs, 0.86, 0.01) == 200
    assert first_reaching(rungs, 0.95, 0.01) is None


def test_records_are_json(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "load_problem", lambda *args, **options: given)
    job = Job(given.setting, "same", Budget(0.5, 7, 0.1), 3)
    method = {"same": lambda asked, budget: Outcome(asked.dense, 0)}
    (row,) = run_all([job], method, tmp_path / "raw.jsonl", faces=None, dense_folder=tmp_path)
    assert (row["seed"], row["method"], row["budget"]["ratio"]) == (3, "same", 0.5)
    assert [json.loads(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines()] == [row]
    assert row["splits"]["test"]["rates"]["accuracy | a"][1] > 0
