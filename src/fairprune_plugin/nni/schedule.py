"""When the goals of a pruner move: by its own steps, by those of a pruner around it, or in another compressor's run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..engine.timetable import Timetable
from ..errors import ConfigError, TrainingStateError
from ..warn import warn_caller
from .ramp import Ramp, ramp_in_steps, ramp_to


class Schedule:
    """Of one pruner, whose ``warmup_step``, ``cooldown_begin_step``, ``interval_steps`` and ``total_times`` are read anew
    each time: users and a pruner around it set them.

    Args:
        pruner: A :class:`~.pruner.BiFPPruner`.

    Attributes:
        driven: Whether there is a pruner around this one, whose goals count.
    """

    def __init__(self, pruner: Any) -> None:
        self._pruner = pruner
        self.driven = False
        self._own_run = False
        self._max_steps: int | None = None

    @contextmanager
    def own_run(self, max_steps: int | None) -> Iterator[None]:
        """For the length of a run that the pruner itself was asked for, of ``max_steps`` if that is known."""
        self._own_run, self._max_steps = True, max_steps
        try:
            yield
        finally:
            self._own_run, self._max_steps = False, None

    @property
    def max_steps(self) -> int | None:
        """Training steps of the run, as far as they are known."""
        return self._max_steps

    def ramp(self) -> Ramp:
        """First and last step of the ramp.

        Raises:
            ConfigError: If the length of the run is unknown, or does not hold the ramp.
        """
        pruner = self._pruner
        if self.driven:
            return 0, max(pruner.interval_steps * pruner.total_times, 2)
        if self._max_steps is not None:
            return ramp_in_steps(pruner.config, pruner.warmup_step, pruner.cooldown_begin_step, self._max_steps)
        if pruner.cooldown_begin_step is None:
            unknown = (
                "" if self._own_run else " (another compressor trains this pruner: its max_steps is not seen here)"
            )
            instead = ", or max_steps to compress()" if self._own_run else ""
            raise ConfigError(
                f"the length of the run is unknown{unknown}: pass cooldown_begin_step=… to BiFPPruner{instead}"
            )
        return ramp_to(pruner.config, pruner.warmup_step, pruner.cooldown_begin_step)

    def timetable(self) -> Timetable:
        """The engine's plan: the ramp, towards the largest of NNI's sparse goals."""
        begin, end = self.ramp()
        config = dataclasses.replace(self._pruner.config, warmup=begin / end, ramp_end=1.0)
        goals = [goal for targets in self._pruner.sparse_goals.values() for goal in targets.values()]
        ratio = max((goal.get("sparse_ratio", 0.0) for goal in goals), default=0.0)
        return Timetable(config, end, ratio=ratio)

    def check_reached(self, steps: int, due: int) -> None:
        """At the end of training, after ``steps`` optimizer steps; the goals are reached at step ``due``.

        Raises:
            TrainingStateError: If they are not.
        """
        if steps >= due:
            return
        what = "masks are all ones" if steps == 0 else "the masks are not final"
        lower = "interval_steps or total_times of the pruner around this one" if self.driven else "cooldown_begin_step"
        raise TrainingStateError(
            f"training ended after {steps} optimizer steps, but the goals of config_list are reached at step {due}: "
            f"{what}; let training_func run for max_steps (or max_epochs) with the optimizers and the training_step it "
            f"is given, train longer, or lower {lower}"
        )

    def warn_if_short(self, steps: int, due: int) -> None:
        """Whether the weights have settled for fewer steps than asked."""
        if self._max_steps is not None and steps < self._max_steps:
            warn_caller(
                f"training ended after {steps} optimizer steps of max_steps={self._max_steps}: the masks are final (since "
                f"step {due}), but the weights have settled for {steps - due} steps instead of {self._max_steps - due}; "
                "let training_func run for max_steps optimizer steps"
            )
