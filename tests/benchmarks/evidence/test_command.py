"""Which learning rate a run gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evidence import command
from evidence.problems import SETTINGS, on_network


def test_a_search_on_the_same_data_comes_before_one_on_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = tmp_path / "rates.json"
    monkeypatch.setattr(command, "RATES", rates)
    rates.write_text(json.dumps({"resnet10": {"bifp": 0.3, "snip": 0.4}, "resnet10 on fairface": {"bifp": 0.7}}))

    def rate(setting: str, method: str) -> float:
        return command.budget(SETTINGS[setting], method, 0.9, None).lr

    assert rate("smiling", "bifp") == rate("wavy", "bifp") == 0.3
    assert rate("race", "bifp") == rate("race_gender", "bifp") == 0.7
    assert rate("race", "snip") == rate("lfw", "snip") == 0.4
    assert rate("race", "random") == command.DEFAULT_RATE["resnet10"]
    other = on_network(SETTINGS["race"], "mobilenetv2", 0.5)
    assert command.budget(other, "bifp", 0.9, None).lr == command.DEFAULT_RATE["mobilenetv2"]


def test_another_tolerance_or_length_has_rates_of_its_own_where_they_were_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = tmp_path / "rates.json"
    monkeypatch.setattr(command, "RATES", rates)
    found = {"resnet10": {"bifp": 0.3}, "resnet10, tolerance × 2": {"bifp": 0.4}, "resnet10 on fairface": {"bifp": 0.7}}
    found |= {"resnet10, 480 passes": {"bifp": 0.5}}
    rates.write_text(json.dumps(found))

    def rate(name: str, factor: float, passes: int | None = None) -> float:
        setting = SETTINGS[name]
        return command.budget(replace(setting, tolerance=factor * setting.tolerance), "bifp", 0.9, passes).lr

    assert rate("smiling", 1) == rate("smiling", 4) == 0.3
    assert rate("smiling", 2) == rate("wavy", 2) == 0.4
    assert rate("smiling", 1, 60) == 0.3
    assert rate("smiling", 1, 480) == rate("wavy", 1, 480) == 0.5
    assert rate("race", 1, 480) == 0.7  # searched on the same data, if with another number of passes
    assert rate("race", 2) == rate("race_gender", 2) == 0.7  # searched on the same data, if with another tolerance


def test_settings_are_asked_for_with_every_tolerance() -> None:
    commands = command.parser("", "x", settings=("smiling",), methods=())
    args = commands.parse_args(["--settings", "smiling", "race", "--factors", "1", "2"])
    assert [setting.tolerance for setting in command.chosen(args)] == [0.03, 0.06, 0.1, 0.2]
