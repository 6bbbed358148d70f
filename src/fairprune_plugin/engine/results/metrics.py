"""What a run tells the outside: one hook with two methods, after every training step and after every evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...errors import ConfigError
from ...fairness.lagrangian import TRAIN
from ...fairness.tracker import ConstraintTracker
from ..bilevel import BiLevelEngine
from .result import HistoryRow


@dataclass(frozen=True)
class StepRow:
    """A training step that was just taken.

    Nothing is read off the device until :meth:`scalars` is called: a hook that looks at every tenth step makes the host
    wait at every tenth step only.

    Attributes:
        step: Training steps done.
        mask_step: Whether it moved the mask rather than the weights.
        progress: Share of the final pruning ratio that is hidden.
        loss: The Lagrangian of the batch, a scalar without gradient.
        trackers: The constraints, as they are now.
    """

    step: int
    mask_step: bool
    progress: float
    loss: Tensor
    trackers: tuple[ConstraintTracker, ...]

    def scalars(self) -> dict[str, float]:
        """Names and finite values: loss, progress, the largest multiplier and the running gap of every constraint (an
        undefined gap is left out)."""
        out = {"train/loss": float(self.loss), "train/mask_step": float(self.mask_step), "pruned": self.progress}
        for title, tracker in zip(constraint_titles(self.trackers), self.trackers, strict=True):
            out[f"multiplier/{title}"] = float(tracker.multipliers.value.max())
            out[f"train/gap/{title}"] = largest_gap(tracker)
        return {name: value for name, value in out.items() if math.isfinite(value)}


@runtime_checkable
class Metrics(Protocol):
    """The hook: an object with these two methods, such as :class:`~...writers.tensorboard.TensorBoardWriter`."""

    def on_step(self, row: StepRow) -> None:
        """After every training step."""

    def on_evaluation(self, row: HistoryRow) -> None:
        """After every evaluation on held-out data."""


def as_hooks(metrics: Any) -> tuple[Metrics, ...]:
    """One hook, several or none, as a tuple.

    Raises:
        ConfigError: For something without the two methods.
    """
    hooks = tuple(metrics) if isinstance(metrics, Sequence) else () if metrics is None else (metrics,)
    for hook in hooks:
        if isinstance(hook, type) or not isinstance(hook, Metrics):
            what = f"the class {hook.__name__} itself" if isinstance(hook, type) else f"a {type(hook).__name__}"
            raise ConfigError(
                "expected metrics as an object with the methods on_step(row) and on_evaluation(row), or a list of such, "
                f"got {what}; for a plain function use on_evaluation=… of fit"
            )
    return hooks


def step_row(engine: BiLevelEngine, loss: Tensor) -> StepRow:
    """The step that the engine has just finished; ask before a new round of pruning begins."""
    return StepRow(
        step=engine.step_index,
        mask_step=engine.timetable.learns_mask(engine.phase_step - 1),
        progress=engine.progress(),
        loss=loss.detach(),
        trackers=tuple(engine.lagrangian.trackers),
    )


def constraint_titles(trackers: Sequence[ConstraintTracker]) -> tuple[str, ...]:
    """A name for each constraint, with what its groups are about; numbered where two would be the same."""
    titles: list[str] = []
    for tracker in trackers:
        label = tracker.constraint.group_spec.label
        title = f"{tracker.constraint.name} by {label}" if label else tracker.constraint.name
        again = sum(known == title or known.startswith(f"{title} #") for known in titles)
        titles.append(f"{title} #{again + 1}" if again else title)
    return tuple(titles)


def largest_gap(tracker: ConstraintTracker) -> float:
    """Of the running training counts; NaN only if all are."""
    gaps = tracker.gaps(tracker.counts, TRAIN)
    known = gaps[~torch.isnan(gaps)]
    return float(known.max()) if len(known) else math.nan
