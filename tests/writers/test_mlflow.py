"""Metrics reach the MLflow run that was asked for, under names it accepts."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairprune_plugin.errors import ConfigError, MissingHostError
from fairprune_plugin.writers.mlflow import MLflowWriter
from writers.rows import evaluation, step, tracker

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*filesystem tracking backend.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


class Recorded:
    """Stands for MLflow: what was logged, and whether a run is active."""

    def __init__(self, active: str | None = None) -> None:
        self.active = active
        self.logged: list[Any] = []

    def active_run(self) -> Any:
        return self.active and type("Run", (), {"info": type("Info", (), {"run_id": self.active})})

    def log_metrics(self, metrics: dict[str, float], step: int, run_id: str) -> None:
        self.logged.append((run_id, step, metrics))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    recorded = Recorded()
    monkeypatch.setitem(sys.modules, "mlflow", recorded)  # type: ignore[arg-type]
    return recorded  # type: ignore[return-value]


def test_rows_go_to_the_active_run(mlflow: Recorded) -> None:
    mlflow.active = "mine"
    writer = MLflowWriter(every=2)
    for number in range(1, 5):
        writer.on_step(step(number, 0.5, tracker()))
    mlflow.active = None  # the run it began with stays its run
    writer.on_evaluation(evaluation(4))
    assert [(run, number) for run, number, _ in mlflow.logged] == [("mine", 2), ("mine", 4), ("mine", 4)]
    assert mlflow.logged[0][2]["train/gap/equal_opportunity"] == 0.5
    assert mlflow.logged[2][2]["validation/gap/a by b_c"] == 0.2, "MLflow takes no colon in a name"


TITLES = (
    "parity by Größe",
    "parity by 性别",
    "parity by 年龄",
    "parity by a:b",
    "parity by a;b",
    "parity by a_b",
    "parity by sex × age",
    "parity by 🙂",
    "parity by 🙃",
    "parity by a/../b",
    "parity by /b/",
    f"parity by {'long' * 80}1",
    f"parity by {'long' * 80}2",
    "accuracy",
)


def test_every_constraint_has_a_name_of_its_own(mlflow: Recorded) -> None:
    writer = MLflowWriter(run_id="mine")
    writer.on_evaluation(evaluation(1, 0.0, *TITLES))
    _, _, first = mlflow.logged[0]
    found = {value: name.removeprefix("validation/gap/") for name, value in first.items() if "/gap/" in name}
    assert [found[float(index)] for index in range(len(TITLES))] == [
        "parity by Größe",
        "parity by 性别",
        "parity by 年龄",
        "parity by a_b -2",
        "parity by a_b -3",
        "parity by a_b",
        "parity by sex x age",
        "parity by _",
        "parity by _ -2",
        "parity by a_.._b",
        "parity by _b_",
        f"parity by {'long' * 80}"[:200],
        f"parity by {'long' * 80}"[:200] + " -2",
        "accuracy",
    ]
    assert first["validation/accuracy"] == 0.9


def test_a_gap_that_is_undefined_moves_no_number(mlflow: Recorded) -> None:
    writer = MLflowWriter(run_id="mine")
    for undefined in (0, 1):
        row = evaluation(1, 0.0, "by a:b", "by a;b")
        gaps = tuple(math.nan if index == undefined else gap for index, gap in enumerate(row.gaps))
        writer.on_evaluation(dataclasses.replace(row, gaps=gaps))
    names = [[name for name in metrics if "/gap/" in name] for _, _, metrics in mlflow.logged]
    assert names == [["validation/gap/by a_b -2"], ["validation/gap/by a_b"]]


def test_a_run_by_its_id(mlflow: Recorded) -> None:
    MLflowWriter(run_id="other").on_evaluation(evaluation(1))
    assert mlflow.logged[0][0] == "other"


def test_without_a_run(mlflow: Recorded) -> None:
    with pytest.raises(ConfigError, match=r"mlflow\.start_run\(\)"):
        MLflowWriter()


def test_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingHostError, match=r"pip install 'fairprune-plugin\[mlflow\]'"):
        MLflowWriter()


def test_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the only store that needs no data base package
    before = real.get_tracking_uri()
    real.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with real.start_run() as run:
            writer = MLflowWriter()
            writer.on_step(step(1, 0.5, tracker()))
            writer.on_evaluation(evaluation(2))
            writer.on_evaluation(evaluation(3, 0.0, *TITLES))
        history = real.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
        found = real.get_run(run.info.run_id).data.metrics
    finally:
        real.set_tracking_uri(before)
    assert [(item.step, item.value) for item in history] == [(1, 0.5)]
    assert found["validation/gap/a by b_c"] == 0.2
    assert {value for name, value in found.items() if "/gap/parity" in name} == set(range(len(TITLES) - 1))
