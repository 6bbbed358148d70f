"""What a method makes of a dense model and a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .problems import Problem
from .tuning import Budget


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        model: The smaller model.
        passes: Forward-backward passes it took.
        details: Anything worth keeping in the record.
    """

    model: nn.Module
    passes: int
    details: dict[str, Any] = field(default_factory=dict)


Method = Callable[[Problem, Budget], Outcome]
