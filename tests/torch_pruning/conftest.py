"""Make the zoo and the driving helpers of the integration tests importable: small models of every family."""

from __future__ import annotations

import sys
from pathlib import Path

_HELPERS = str(Path(__file__).resolve().parents[2] / "integration_tests")
if _HELPERS not in sys.path:
    sys.path.insert(0, _HELPERS)
