"""``package.module:name``, looked up with the working directory on the path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError


def named(text: str, option: str) -> Any:
    """What ``package.module:name`` names.

    Raises:
        ConfigError: If there is no such module or name.
    """
    module_name, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"expected {option} as package.module:name of something that can be imported from {here}, got {text!r}: {error}"
        ) from error


def called(text: str, option: str) -> Any:
    """What the callable that ``package.module:name`` names returns; anything else is returned as it is.

    Raises:
        ConfigError: Also if the call fails.
    """
    found = named(text, option)
    if not callable(found) or hasattr(found, "__iter__") or (hasattr(found, "forward") and not isinstance(found, type)):
        return found
    try:
        return found()
    except Exception as error:
        raise ConfigError(f"{option}: {text} was called without arguments and failed: {error!r}") from error
