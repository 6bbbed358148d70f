"""Fairness-constrained bi-level pruning (BiFP, arXiv 2312.10181) as drop-in pruners for existing hosts."""

from .audit import FairnessAudit, audit, audit_predictions
from .build import build_pruner, pruner_names
from .config import PrunerConfig
from .engine.config import BiLevelConfig
from .errors import FairPruneError, FairPruneWarning
from .fairness.constraint import Constraint
from .fairness.constraints import (
    AccuracyFloor,
    AccuracyParity,
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    ExcessAccuracyGap,
    LossParity,
    PredictiveEquality,
    RateParity,
)
from .fairness.multipliers import MultiplierConfig
from .fairness.outputs import Outputs
from .fairness.rates import Rate

__all__ = [
    "AccuracyFloor",
    "AccuracyParity",
    "BiLevelConfig",
    "Constraint",
    "DegradationParity",
    "DemographicParity",
    "EqualOpportunity",
    "EqualizedOdds",
    "ExcessAccuracyGap",
    "FairPruneError",
    "FairPruneWarning",
    "FairnessAudit",
    "LossParity",
    "MultiplierConfig",
    "Outputs",
    "PredictiveEquality",
    "PrunerConfig",
    "Rate",
    "RateParity",
    "audit",
    "audit_predictions",
    "build_pruner",
    "pruner_names",
]
__version__ = "0.1.0"
