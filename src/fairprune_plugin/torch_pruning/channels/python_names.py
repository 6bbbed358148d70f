"""Layers in messages as a user would write them."""

from __future__ import annotations

import re


def in_python(layer: str) -> str:
    """``"body.0.fc"``, a name of ``named_modules()``, as ``"model.body[0].fc"``."""
    return "model" + re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f".{layer}" if layer else "")
