"""What a run is given: its host and its settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...fairness.evaluation import Evaluation
from ...fairness.lagrangian import Lagrangian
from ..bilevel import BiLevelEngine
from ..data_parallel import Wrap
from ..loaders.batches import Forward
from ..results.metrics import Metrics
from ..results.result import HistoryRow, Size

OnEvaluation = Callable[[HistoryRow], None]


class Host(Protocol):
    """What the run needs of a host's pruner."""

    model: nn.Module
    engine: BiLevelEngine
    lagrangian: Lagrangian
    total_steps: int | None
    dense_record: tuple[Evaluation, Size] | None

    def plan(self, total_steps: int) -> None: ...
    def loss(self, logits: Tensor, targets: Tensor, sensitive: Any = None) -> Tensor: ...
    def regularize(self, model: nn.Module) -> None: ...
    def remove_round(self) -> None: ...
    def rounds_left(self) -> int: ...
    def rebuild_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer: ...
    def size(self) -> Size: ...
    def removal_record(self) -> dict[str, Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def check_state(self, state: Any) -> None: ...
    def load_state_dict(self, state: Any) -> None: ...


@dataclass(frozen=True)
class FitOptions:
    """Settings of a run; see ``BiFPPruner.fit`` for their meaning."""

    epochs: int | None
    validate_every: int | None
    dual_every: int
    recalibration_batches: int
    progress: bool
    forward: Forward
    on_evaluation: OnEvaluation | None
    select_by: str
    driver: str | None
    folds: int
    checkpoint_dir: str | os.PathLike[str] | None = None
    checkpoint_every: int | None = None
    wrap: Wrap | None = None
    metrics: tuple[Metrics, ...] = ()
    remove_early: bool = False
