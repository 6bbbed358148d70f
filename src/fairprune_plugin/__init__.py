"""Fairness-constrained bi-level pruning (BiFP, arXiv 2312.10181) as drop-in pruners for existing hosts."""

from .build import build_pruner, pruner_names
from .config import PrunerConfig
from .engine.config import BiLevelConfig
from .errors import FairPruneError, FairPruneWarning
from .fairness.constraints import (
    AccuracyParity,
    Constraint,
    DegradationParity,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
)
from .fairness.multipliers import MultiplierConfig

__all__ = [
    "AccuracyParity",
    "BiLevelConfig",
    "Constraint",
    "DegradationParity",
    "DemographicParity",
    "EqualOpportunity",
    "EqualizedOdds",
    "FairPruneError",
    "FairPruneWarning",
    "MultiplierConfig",
    "PrunerConfig",
    "build_pruner",
    "pruner_names",
]
__version__ = "0.1.0"
