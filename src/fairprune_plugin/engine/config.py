"""Settings of the bi-level run: when the mask moves, by what, and how far. Defaults come from measurements
(docs/method.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import flag, number, one_of, whole_number
from ..errors import ConfigError
from ..masks.schedule import SCHEDULES
from ..plain import from_plain

SECOND_MOMENT = "second_moment"
GRADIENT = "gradient"
SCORE_RULES = (SECOND_MOMENT, GRADIENT)


@dataclass(frozen=True)
class BiLevelConfig:
    """The alternation of weights and mask.

    Attributes:
        schedule: How the pruning ratio rises between ``warmup`` and ``ramp_end``: a name of
            :data:`~..masks.schedule.SCHEDULES`.
        warmup: Share of the steps before any channel is hidden; mask steps only collect scores.
        ramp_end: Share of the steps at which the target is reached. From then on the mask is frozen and every
            step is a weight step: the weights settle under the constraint.
        joint: Whether the backward pass of a mask step also moves the weights: both updates need the same gradient, so
            that learning the mask costs no pass. False alternates strictly, as the paper does: a mask step leaves the
            weights alone and costs one pass.
        weight_steps_per_mask_step: ``K`` weight steps, then one mask step, as long as the mask moves. Default: 0 if
            ``joint`` (every step moves both), else 1.
        score_rule: ``"second_moment"``: a unit's score is the running mean of its squared mask derivative.
            ``"gradient"``: projected gradient descent on relaxed scores, the paper's update as printed.
        score_decay: Memory of the running means, per mask step.
        prior: ``"second_moment"`` only: weight of the initial saliency in its geometric mean with what was learned, in
            [0, 1]; 0 learns from derivatives alone, 1 keeps the order of the start. Default: 0.5, and 0.8 for units that
            are single weights, whose derivatives have no sum to lose noise in.
        mask_lr: β, ``"gradient"`` only: step size on the scores, in units of the derivative's RMS.
        inverse_gamma: 1/γ, weight of the implicit term (γ: strength of the lower level's regulariser); 0
            leaves it out.
        cost_exponent: Size budgets only: scores are divided by this power of what a unit costs.

    Raises:
        ConfigError: For values outside their range; unknown names list the choices.
    """

    schedule: str = "cubic"
    warmup: float = 0.0
    ramp_end: float = 0.2
    joint: bool = True
    weight_steps_per_mask_step: int | None = None
    score_rule: str = SECOND_MOMENT
    score_decay: float = 0.98
    prior: float | None = None
    mask_lr: float = 0.1
    inverse_gamma: float = 1.0
    cost_exponent: float = 0.5

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, tuple(SCHEDULES))
        one_of("score rule", self.score_rule, SCORE_RULES)
        for share in ("warmup", "ramp_end"):
            order = "0 ≤ warmup < ramp_end ≤ 1"
            self._set(share, number(order, getattr(self, share), "(shares of the run)", lambda x: True))
        if not 0 <= self.warmup < self.ramp_end <= 1:
            raise ConfigError(
                f"expected 0 ≤ warmup < ramp_end ≤ 1 (shares of the run), got {self.warmup} and {self.ramp_end}"
            )
        flag("joint", self.joint)
        if self.weight_steps_per_mask_step is None:
            self._set("weight_steps_per_mask_step", 0 if self.joint else 1)
        steps = whole_number("weight_steps_per_mask_step", self.weight_steps_per_mask_step, 0)
        self._set("weight_steps_per_mask_step", steps)
        if steps == 0 and not self.joint:
            raise ConfigError("expected at least one weight step per mask step (or joint=True), got 0")
        self._set("score_decay", number("score_decay", self.score_decay, "in [0, 1)", lambda x: 0 <= x < 1))
        if self.prior is not None:
            self._set("prior", number("prior", self.prior, "in [0, 1]", lambda x: 0 <= x <= 1))
        for field in ("mask_lr", "inverse_gamma", "cost_exponent"):
            self._set(field, number(field, getattr(self, field), "≥ 0", lambda x: x >= 0))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # the class is frozen; numbers become Python's own

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> BiLevelConfig:
        """Builds a config from plain values; an unknown key is an error that lists the known ones."""
        return from_plain(cls, options, "the bi-level config")
