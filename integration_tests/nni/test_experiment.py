"""A real NNI experiment on this machine: three trials to the end, headless, and nothing left running afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("nni") is None:
    pytest.skip("nni is not installed", allow_module_level=True)

import psutil

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ("steps=40", "dense_steps=20", "evaluate_every=20")
TIMEOUT = 900  # seconds: only a bound on what hangs, far above what a busy machine takes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xai") is None, reason="the census table ships in the package xai"
)


class Started:
    """``run.py`` in a process of its own; everything it starts inherits a mark in the environment."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.mark, self.out = uuid.uuid4().hex, folder / "out"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder), "FAIRPRUNE_TEST": self.mark}
        command = [sys.executable, "nni_experiment/run.py", "--out", str(self.out), *options, "--set", *SMALL]
        # Files instead of pipes: a process left behind would hold a pipe open and hang the test.
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=EXAMPLES, env=environment, stdout=log, stderr=log)

    def marked(self) -> list[str]:
        """Command lines of the processes that descend from ``run.py``, alive at this moment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("FAIRPRUNE_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def wait_for_a_trial(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not any("trial.py" in line for line in self.marked()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "no trial was started"
            time.sleep(0.2)

    def assert_nothing_is_left(self) -> None:
        assert self.marked() == []
        port = re.search(r"http://localhost:(\d+)", self.log.read_text())
        assert port is not None
        with socket.socket() as probe:
            assert probe.connect_ex(("localhost", int(port[1]))) != 0

    def kill(self) -> None:
        """Whatever happened, no test of ours leaves a process behind."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("FAIRPRUNE_TEST") == self.mark:
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


def test_three_trials_to_completion(tmp_path: Path) -> None:
    space = {
        "pruner": {"_type": "choice", "_value": ["bifp", "l1", "taylor"]},
        "sparsity": {"_type": "choice", "_value": [0.6]},
    }
    (tmp_path / "space.json").write_text(json.dumps(space))
    started = Started(
        tmp_path, "--trials", "3", "--tuner", "GridSearch", "--search-space", str(tmp_path / "space.json")
    )
    try:
        assert started.process.wait(timeout=TIMEOUT) == 0, started.log.read_text()
        started.assert_nothing_is_left()
    finally:
        started.kill()
    rows: list[dict[str, Any]] = json.loads((started.out / "results.json").read_text())
    assert [row["status"] for row in rows] == ["SUCCEEDED"] * 3
    assert {row["parameters"]["pruner"] for row in rows} == {"bifp", "l1", "taylor"}
    assert [row["default"] for row in rows] == sorted((row["default"] for row in rows), reverse=True)
    for row in rows:
        used = row["parameters"]
        assert (used["sparsity"], used["steps"], used["dense_steps"]) == (0.6, 40, 20)
        assert not row["mixed_up"]
        assert len(row["intermediate"]) == 2
        assert all(set(item) == {"default", "accuracy", "gap", "feasible"} for item in row["intermediate"])
        assert 0.15 < row["params_share"] < 0.3  # 40 % of the units of each of three hidden layers stay
        assert (row["default"] >= 0) == row["feasible"]
    assert len({row["params"] for row in rows}) == 1  # the same sparsity is the same size, whichever pruner
    assert len({row["dense_accuracy"] for row in rows}) == 1


def test_an_ended_run_ends_its_trials(tmp_path: Path) -> None:
    """SIGTERM (a job scheduler, a closed terminal) while a trial trains."""
    started = Started(tmp_path, "--trials", "3")
    try:
        started.wait_for_a_trial()
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(timeout=TIMEOUT) == 143, started.log.read_text()
        started.assert_nothing_is_left()
    finally:
        started.kill()


def test_stand_alone(tmp_path: Path) -> None:
    """The same trial without an experiment."""
    out = tmp_path / "result.json"
    command = [sys.executable, "nni_experiment/trial.py", "--out", str(out), "--set", "pruner=fpgm", *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["parameters"]["pruner"] == "fpgm"
    assert 0.1 < result["params_share"] < 0.2  # 30 % of the units of each of three hidden layers stay
    assert done.stdout.count("Intermediate result") == 2
    assert "Traceback" not in done.stderr
