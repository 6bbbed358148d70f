"""What the ranks of scenarios told, and how it is compared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import fairprune_plugin

from .scenarios import Scenarios

Ranks = list[dict[str, Any]]

forks_ranks = pytest.mark.skipif(
    not hasattr(os, "fork") or not (dist.is_available() and dist.is_gloo_available()),
    reason="forks ranks that use gloo",
)


def play_all(scenarios: Callable[[Path], Scenarios], folder: Path) -> dict[str, Ranks]:
    """What every rank of every scenario told; they are played by a process of their own."""
    wanted = scenarios(folder)
    command = [sys.executable, "-m", "ranks.play", str(folder), *wanted]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900, check=False)
    out: dict[str, Ranks] = {}
    for name, (world, _) in wanted.items():
        files = [folder / f"{name}-{rank}.pt" for rank in range(world)]
        assert all(file.exists() for file in files), f"{name} failed:\n{done.stderr[-4000:]}"
        out[name] = [torch.load(file, weights_only=True) for file in files]
    return out


def equal(a: Any, b: Any) -> bool:
    """To the last bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(one, other) for one, other in zip(a, b, strict=True))
    return bool(a == b)


def assert_close(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Masks are equal; weights and multipliers up to the order of sums in float32."""
    assert equal(a["keep"], b["keep"])
    for name, weight in a["weights"].items():
        torch.testing.assert_close(weight, b["weights"][name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for one, other in zip(a["multipliers"], b["multipliers"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(a["counts"], b["counts"], strict=True):
        for name, counted in one.items():
            torch.testing.assert_close(counted, other[name], rtol=1e-9, atol=1e-9)


def environment() -> dict[str, str]:
    source = Path(fairprune_plugin.__file__).parents[1]
    return {
        **os.environ,
        "PYTHONPATH": f"{source}{os.pathsep}{Path(__file__).parents[1]}",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }
