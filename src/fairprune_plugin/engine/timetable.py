"""Which step is a mask step, and how much of the target ratio is due at each step."""

from __future__ import annotations

from ..errors import ConfigError
from ..masks.schedule import schedule_from
from .config import BiLevelConfig


class Timetable:
    """The plan of one phase: ``steps`` training steps during which the ratio rises from ``start`` to ``end``.

    Args:
        config: Warm-up, ramp and alternation.
        steps: Training steps of the phase.
        ratio: Final pruning ratio, which shapes the schedules that depend on it.
        start: Share of the final ratio at the beginning of the phase.
        end: Share of the final ratio at its end (1 unless channels are removed in several rounds).

    Raises:
        ConfigError: For a phase that is too short to learn a mask in.
    """

    def __init__(
        self, config: BiLevelConfig, steps: int, *, ratio: float, start: float = 0.0, end: float = 1.0
    ) -> None:
        self.steps = steps
        self.config = config
        self.ramp_begin = round(config.warmup * steps)
        self.ramp_end = max(round(config.ramp_end * steps), self.ramp_begin + 1)
        if steps < 2:
            raise ConfigError(f"expected at least 2 training steps for the mask to be learned, got {steps}")
        if self.ramp_end > steps:
            raise ConfigError(
                "expected a training step after the warm-up, for the mask to reach its target in, but "
                f"warmup={config.warmup} of {steps} steps are all of them: lower warmup, or plan more steps"
            )
        length = self.ramp_end - self.ramp_begin
        if ratio > 0:
            shares = [value / ratio for value in schedule_from(config.schedule)(ratio, length)]
        else:
            shares = [1.0] * (length + 1)
        self._shares = [start + (end - start) * share for share in shares]

    def progress(self, step: int) -> float:
        """Share of the final pruning ratio that is due after training step ``step`` (0-based)."""
        done = min(max(step + 1 - self.ramp_begin, 0), self.ramp_end - self.ramp_begin)
        return self._shares[done]

    def learns_mask(self, step: int) -> bool:
        """Whether this is a mask step: every (K+1)-th one until the target is reached, and the last of them."""
        if step >= self.ramp_end:
            return False
        period = (self.config.weight_steps_per_mask_step or 0) + 1
        return (step + 1) % period == 0 or step + 1 == self.ramp_end

    def at_target(self, step: int) -> bool:
        """Whether the target ratio was reached by the end of training step ``step``."""
        return step + 1 >= self.ramp_end


class SettledTimetable(Timetable):
    """The plan of the steps after the last removal, with weights alone to train.

    Args:
        config: Of the run.
        steps: That are left; none is allowed.
    """

    def __init__(self, config: BiLevelConfig, steps: int) -> None:
        self.steps = steps
        self.config = config
        self.ramp_begin = self.ramp_end = 0
        self._shares = [1.0]

    def learns_mask(self, step: int) -> bool:
        """Never: there is nothing left to hide."""
        return False
