"""Metrics of a run as those of an MLflow run."""

from __future__ import annotations

import importlib
import re
from typing import Any

from ..engine.results.metrics import StepRow
from ..engine.results.result import HistoryRow
from ..errors import ConfigError, MissingHostError
from .sampling import checked_every

NOT_ALLOWED = re.compile(r"[^\w\-. /]", flags=re.ASCII)


class MLflowWriter:
    """Writes what a run tells to an MLflow run, which the user starts and ends.

    Args:
        run_id: The run; default the active one (``with mlflow.start_run():``).
        every: Training steps between two rows; evaluations are always written.

    Raises:
        MissingHostError: If MLflow is not installed.
        ConfigError: If there is neither a ``run_id`` nor an active run, or for a wrong ``every``.
    """

    def __init__(self, *, run_id: str | None = None, every: int = 1) -> None:
        self.every = checked_every(every)
        try:
            self._mlflow: Any = importlib.import_module("mlflow")
        except ImportError as error:
            raise MissingHostError("MLflowWriter needs MLflow: pip install 'fairprune-plugin[mlflow]'") from error
        if run_id is None:
            active = self._mlflow.active_run()
            if active is None:
                raise ConfigError(
                    "expected an active MLflow run or a run_id, found neither: start one first, with mlflow.start_run(): …"
                )
            run_id = active.info.run_id
        self.run_id = run_id

    def on_step(self, row: StepRow) -> None:
        """Writes the scalars of every ``every``-th step."""
        if row.step % self.every == 0:
            self._write(row.scalars(), row.step)

    def on_evaluation(self, row: HistoryRow) -> None:
        """Writes the scalars of an evaluation."""
        self._write(row.scalars(), row.step)

    def _write(self, scalars: dict[str, float], step: int) -> None:
        allowed = {NOT_ALLOWED.sub("_", name): value for name, value in scalars.items()}
        self._mlflow.log_metrics(allowed, step=step, run_id=self.run_id)
