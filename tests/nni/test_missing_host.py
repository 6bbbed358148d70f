"""The package without NNI: importable, and the host says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {blocked!r}:
            raise ImportError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Block())
import fairprune_plugin
assert "nni" not in sys.modules and "torch_pruning" not in sys.modules
try:
    import fairprune_plugin.nni
except fairprune_plugin.errors.MissingHostError as error:
    print(error)
try:
    fairprune_plugin.build_pruner("l1", None, host="nni")
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("blocked", ["nni", "torch_pruning"])
def test_without_a_host(blocked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'fairprune-plugin[nni]'" in line for line in lines)
