"""Metrics of a run as those of an MLflow run."""

from __future__ import annotations

import importlib
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from ..engine.results.metrics import StepRow, constraint_titles
from ..engine.results.result import HistoryRow
from ..errors import ConfigError, MissingHostError
from .sampling import checked_every

NOT_ALLOWED = re.compile(r"[^\w\-. /]")  # letters of every script are allowed; colons are on some systems only
LONGEST = 200  # of the 250 characters of a metric's name, what comes before and after takes less than the rest


class MLflowWriter:
    """Writes what a run tells to an MLflow run, which the user starts and ends.

    Metrics are called as elsewhere, except for characters in the names of constraints and attributes that MLflow does not
    take (such as ``:``); constraints whose names differ in these alone are numbered.

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
            self._write(row.scalars(), constraint_titles(row.trackers), row.step)

    def on_evaluation(self, row: HistoryRow) -> None:
        """Writes the scalars of an evaluation."""
        self._write(row.scalars(), row.constraints, row.step)

    def _write(self, scalars: dict[str, float], titles: Sequence[str], step: int) -> None:
        names = allowed_titles(titles)
        allowed = {_with_allowed_title(name, names): value for name, value in scalars.items()}
        self._mlflow.log_metrics(allowed, step=step, run_id=self.run_id)


def allowed_titles(titles: Sequence[str]) -> dict[str, str]:
    """A name that MLflow takes for each constraint's title: the title itself where it does, else one that resembles it, with
    a number if it is another's already. All titles of a run come in the same order each time, and so do the numbers."""
    out = {title: title for title in titles if _allowed(title) == title}
    for title in titles:
        if title not in out:
            name, number = _allowed(title), 1
            while (name if number == 1 else f"{name} -{number}") in out.values():
                number += 1
            out[title] = name if number == 1 else f"{name} -{number}"
    return out


def _allowed(title: str) -> str:
    composed = unicodedata.normalize("NFC", title).replace("×", "x")
    name = NOT_ALLOWED.sub("_", composed)[:LONGEST]
    # MLflow takes names for paths of files, and refuses those that another path leads to as well.
    return name if posixpath.normpath(name) == name else name.replace("/", "_")


def _with_allowed_title(metric: str, names: dict[str, str]) -> str:
    """A metric's name, whose end may be a constraint's title."""
    for title in sorted(names, key=len, reverse=True):
        if metric.endswith(f"/{title}"):
            return metric.removesuffix(title) + names[title]
    return metric
