"""Metrics of a run as TensorBoard event files."""

from __future__ import annotations

import os
from typing import Any, Self

from ..checks import shown
from ..engine.results.metrics import StepRow
from ..engine.results.result import HistoryRow
from ..errors import ConfigError, MissingHostError
from .sampling import checked_every


class TensorBoardWriter:
    """Writes what a run tells to TensorBoard; use it as a context manager, or close it.

    Args:
        folder: Where the event file goes; ``tensorboard --logdir`` reads it.
        every: Training steps between two rows; evaluations are always written.

    Raises:
        MissingHostError: If the package ``tensorboard`` is not installed.
        ConfigError: For a wrong ``folder`` or ``every``.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 1) -> None:
        self.every = checked_every(every)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingHostError(
                "TensorBoardWriter needs the package tensorboard: pip install 'fairprune-plugin[tensorboard]'"
            ) from error
        if not isinstance(folder, str | os.PathLike):
            raise ConfigError(f"expected folder as a path, got {shown(folder)}")
        self._writer: Any = SummaryWriter(os.fspath(folder))

    def on_step(self, row: StepRow) -> None:
        """Writes the scalars of every ``every``-th step."""
        if row.step % self.every == 0:
            self._write(row.scalars(), row.step)

    def on_evaluation(self, row: HistoryRow) -> None:
        """Writes the scalars of an evaluation, and puts all that was written so far onto the disk."""
        self._write(row.scalars(), row.step)
        self._writer.flush()

    def close(self) -> None:
        """Finishes the event file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
