"""The examples' command lines, end to end at a small size."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
CELEBA = Path(os.environ.get("FAIRPRUNE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "celeba"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(importlib.util.find_spec("xai") is None, reason="the census table ships in the package xai")
def test_census_demo(tmp_path: Path) -> None:
    out = run(
        "census_demo.py", "--dense-steps", "60", "--steps", "60", "--pruning-ratio", "0.7",
        "--constraint", "demographic_parity", "--tolerance", "0.1", "--out", str(tmp_path),
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert "magnitude + fine-tuning" in out.stdout
    result = json.loads((tmp_path / "census.json").read_text())
    sizes = {name: model["size"]["params"] for name, model in result["models"].items()}
    assert sizes["BiFP"] == sizes["magnitude + fine-tuning"] < sizes["dense"]
    assert (tmp_path / "census.png").stat().st_size > 10_000
    assert (tmp_path / "census_bifp.pt").exists()


@pytest.mark.skipif(importlib.util.find_spec("xai") is None, reason="the census table ships in the package xai")
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--tolerance", "1.5", "tolerance in [0, 1]"), ("--pruning-ratio", "1", "pruning_ratio in [0, 1)")],
)
def test_census_demo_refuses_in_one_line(option: str, value: str, said: str, tmp_path: Path) -> None:
    out = run("census_demo.py", "--dense-steps", "5", "--steps", "5", option, value, "--out", str(tmp_path))
    assert out.returncode == 2
    assert said in out.stderr
    assert "Traceback" not in out.stderr


@pytest.mark.skipif(
    not CELEBA.is_dir(), reason="no CelebA beside the checkout; set FAIRPRUNE_DATA to its parent folder"
)
def test_prune_faces_resumes(tmp_path: Path) -> None:
    raw = tmp_path / "faces.jsonl"
    command = (
        "prune_faces.py", "--dataset", "celeba", "--root", str(CELEBA), "--limit", "200", "--epochs", "1",
        "--steps", "6", "--width", "8", "--batch-size", "32", "--threads", "1", "--out", str(raw),
        "--constraint", "accuracy_parity", "--methods", "magnitude", "bifp",
    )  # fmt: skip
    first = run(*command)
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in raw.read_text().splitlines()]
    assert [row["method"] for row in rows] == ["magnitude", "bifp"]
    assert rows[0]["params"] == rows[1]["params"]
    again = run(*command, "--table", str(tmp_path / "table.md"))
    assert raw.read_text().count("\n") == 2  # nothing was run twice
    assert (tmp_path / "table.md").read_text().count("| bifp |") == 1, again.stderr
