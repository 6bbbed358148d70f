"""Stumbling is refusing; our own errors keep what they say."""

from __future__ import annotations

import pytest

from fairprune_plugin.engine.damage import refusing_damage
from fairprune_plugin.errors import ConfigError, TrainingStateError


@pytest.mark.parametrize(
    "error", [KeyError("keep"), TypeError("x"), ValueError("x"), AttributeError("x"), IndexError("x")]
)
def test_whatever_a_check_stumbles_over_is_a_refusal(error: Exception) -> None:
    message = f"state of the run is damaged .{type(error).__name__}"
    with pytest.raises(TrainingStateError, match=message) as caught, refusing_damage("run"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ConfigError("other settings"), TrainingStateError("too late")])
def test_our_own_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, refusing_damage("run"):
        raise error
    assert caught.value is error


def test_a_bug_is_not_a_damaged_file() -> None:
    with pytest.raises(ZeroDivisionError), refusing_damage("run"):
        raise ZeroDivisionError
