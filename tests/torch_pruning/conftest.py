"""Make this folder's networks, and the zoo and driving helpers of the integration tests, importable."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve()
for _folder in (str(_HERE.parent), str(_HERE.parents[2] / "integration_tests")):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)
