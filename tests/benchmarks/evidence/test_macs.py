"""The command at equal MACs: what each method leaves, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evidence_synthetic import problem

from evidence import command, macs, records, search
from evidence.methods import METHODS
from evidence.problems import SETTINGS
from evidence.tuning import Budget
from fairprune_plugin.torch_pruning.size.macs import count

METHODS_ASKED = ["dense", "bifp", "magnitude", "magnitude uniform", "lamp + constraint", "torch-pruning magnitude"]


@pytest.mark.parametrize("method", METHODS_ASKED[1:])
def test_every_method_removes_the_share_of_the_macs(method: str) -> None:
    given = problem()
    outcome = METHODS[method](given, Budget(0.6, 8, 0.01, "macs"))
    dense, _ = count(given.dense, given.example)
    left, _ = count(outcome.model, given.example)
    assert left / dense == pytest.approx(0.4, abs=0.03)  # one unit of these small layers is up to 3 %


def test_the_page_is_of_macs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    monkeypatch.setattr(records, "load_problem", lambda setting, seed, **_: replace(given, setting=setting, seed=seed))
    raw, page = tmp_path / "raw.jsonl", tmp_path / "page.md"
    arguments = ["--settings", "census", "--seeds", "0", "1", "--passes", "8", "--raw", str(raw), "--page", str(page)]
    macs.main([*arguments, "--ratios", "0.5", "--methods", *METHODS_ASKED])
    rows = records.read(raw)
    assert {row["budget"]["target"] for row in rows} == {"macs"}
    assert {row["method"] for row in rows} == set(METHODS_ASKED)
    assert "50% of the MACs removed:" in page.read_text()


def test_rates_are_those_of_the_search_at_equal_macs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    monkeypatch.setattr(records, "load_problem", lambda setting, seed, **_: replace(given, setting=setting, seed=seed))
    monkeypatch.setattr(command, "MACS_RATES", tmp_path / "macs.json")
    monkeypatch.setattr(search, "CANDIDATES", {"mlp": (0.001, 0.05)})
    raw = tmp_path / "raw.jsonl"
    arguments = ["--settings", "census", "--seeds", "0", "--passes", "8", "--ratio", "0.6", "--raw", str(raw)]
    search.main([*arguments, "--macs", "--methods", "magnitude"])
    assert {row["budget"]["target"] for row in records.read(raw)} == {"macs"}
    found = json.loads((tmp_path / "macs.json").read_text())["mlp on census, 8 passes"]["magnitude"]
    assert command.budget(SETTINGS["census"], "magnitude", 0.6, 8, "macs").lr == found
    assert command.budget(SETTINGS["census"], "lamp", 0.6, None, "macs").lr == command.DEFAULT_RATE["mlp"]


def test_methods_that_cut_something_else_are_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        macs.main(["--methods", "nni fpgm"])
    assert "nni fpgm" in capsys.readouterr().err
