"""Where the ramp of the goals lies in a run, and arguments that cannot place it."""

from __future__ import annotations

from typing import Any

from ..engine.config import BiLevelConfig
from ..errors import ConfigError

Ramp = tuple[int, int]  # optimizer steps before anything is hidden; steps after which the goals are reached


def check_steps(warmup: Any, cooldown: Any) -> None:
    """Refuses a ``warmup_step`` and a ``cooldown_begin_step`` between which no mask can be learned."""
    for name, value in (("warmup_step", warmup), ("cooldown_begin_step", cooldown)):
        if value is not None and (not _is_count(value) or value < 0):
            raise ConfigError(f"expected {name} as a whole number of optimizer steps, got {value!r}")
    if cooldown is not None and not (warmup or 0) < cooldown:
        raise ConfigError(f"expected warmup_step < cooldown_begin_step, got {warmup} and {cooldown}")
    if cooldown is not None and cooldown < 2:
        raise ConfigError(
            f"expected cooldown_begin_step of at least 2 steps for the mask to be learned, got {cooldown}"
        )


def check_length(max_steps: Any, max_epochs: Any) -> None:
    """Refuses a length that evaluators would take for something else, or stop at in the middle of a run."""
    if max_steps is None and max_epochs is None:
        raise ConfigError("compress() needs the length of the run: expected max_steps or max_epochs, got None for both")
    for name, value in (("max_steps", max_steps), ("max_epochs", max_epochs)):
        if value is not None and (not _is_count(value) or value < 1):
            raise ConfigError(f"expected {name} as a positive whole number or None, got {value!r}")


def ramp_in_steps(config: BiLevelConfig, warmup: int | None, cooldown: int | None, max_steps: int) -> Ramp:
    """The ramp of a run of ``max_steps``; what is not given is the share of the run that ``config`` says.

    Raises:
        ConfigError: If the run is shorter than the ramp, or ``warmup`` leaves nothing of it.
    """
    end = max(round(config.ramp_end * max_steps), 2) if cooldown is None else cooldown
    if max_steps < end:
        raise ConfigError(
            f"max_steps={max_steps} is shorter than the schedule: the goals are reached at step {end} "
            "(cooldown_begin_step); train longer, or lower cooldown_begin_step"
        )
    if warmup is not None and warmup >= end:
        raise ConfigError(
            f"warmup_step={warmup} is not before the step at which the goals are reached, {end} (ramp_end="
            f"{config.ramp_end} of max_steps={max_steps}): pass cooldown_begin_step as well, or lower warmup_step"
        )
    return ramp_to(config, warmup, end)


def ramp_to(config: BiLevelConfig, warmup: int | None, cooldown: int) -> Ramp:
    """The ramp that ends at ``cooldown``; without ``warmup`` it begins where the shares of ``config`` have it."""
    begin = round(config.warmup / config.ramp_end * cooldown) if warmup is None else warmup
    return min(begin, cooldown - 1), cooldown


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
