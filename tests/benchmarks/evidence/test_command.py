"""Learning rates of the runs: those searched on such data, else those of CelebA, else the network's usual one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evidence import command
from evidence.problems import SETTINGS, on_network


def test_rates_are_of_the_network_and_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"resnet10": {"bifp": 0.02, "taylor": 0.1}, "resnet10 on fairface": {"bifp": 0.07}}))
    monkeypatch.setattr(command, "RATES", path)

    def rate(setting: str, method: str, network: str = "resnet10") -> float:
        return command.budget(on_network(SETTINGS[setting], network, 8), method, 0.9, None).lr

    assert rate("smiling", "bifp") == rate("blond", "bifp") == 0.02
    assert rate("race", "bifp") == rate("race_gender", "bifp") == 0.07
    assert rate("race", "taylor") == 0.1
    assert rate("race", "lamp") == command.DEFAULT_RATE["resnet10"]
    assert rate("smiling", "bifp", "vit") == command.DEFAULT_RATE["vit"]
