"""The place of the ramp in a run: what is given is honoured, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin import BiLevelConfig
from fairprune_plugin.errors import ConfigError
from fairprune_plugin.nni.ramp import check_length, check_steps, ramp_in_steps, ramp_to

CONFIG = BiLevelConfig(warmup=0.1, ramp_end=0.3)
STEPS = st.integers(0, 300)


@given(warmup=st.none() | STEPS, cooldown=st.none() | STEPS, max_steps=st.integers(1, 300))
def test_given_steps_are_honoured_or_refused(warmup: int | None, cooldown: int | None, max_steps: int) -> None:
    try:
        check_steps(warmup, cooldown)
        begin, end = ramp_in_steps(CONFIG, warmup, cooldown, max_steps)
    except ConfigError:
        expected = max(round(0.3 * max_steps), 2) if cooldown is None else cooldown
        assert expected < 2 or expected > max_steps or (warmup or 0) >= expected
        return
    assert 0 <= begin < end <= max_steps
    assert begin == warmup or warmup is None
    assert end == cooldown or cooldown is None


def test_shares_of_the_run_by_default() -> None:
    assert ramp_in_steps(CONFIG, None, None, 100) == (10, 30)
    assert ramp_in_steps(CONFIG, 5, None, 100) == (5, 30)
    assert ramp_in_steps(CONFIG, None, 60, 100) == ramp_to(CONFIG, None, 60) == (20, 60)


@pytest.mark.parametrize("warmup", [30, 90, 500])
def test_a_warmup_beyond_the_default_end_of_the_ramp(warmup: int) -> None:
    with pytest.raises(ConfigError, match=rf"warmup_step={warmup} is not before .* 30 .*pass cooldown_begin_step"):
        ramp_in_steps(CONFIG, warmup, None, 100)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        ((None, None), "expected max_steps or max_epochs, got None for both"),
        (("10", None), "max_steps as a positive whole number or None, got '10'"),
        ((10.0, None), r"max_steps .*got 10\.0"),
        ((True, None), "max_steps .*got True"),
        ((0, None), "max_steps .*got 0"),
        ((None, -1), "max_epochs .*got -1"),
        ((8, 1.5), r"max_epochs .*got 1\.5"),
    ],
)
def test_lengths_that_cannot_be(length: tuple[Any, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_length(*length)


@pytest.mark.parametrize("length", [(10, None), (None, 3), (10, 3)])
def test_lengths(length: tuple[Any, Any]) -> None:
    check_length(*length)
