"""Lagrange multipliers of the fairness constraints: the only module that knows cooper-optim."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cooper
import torch
from cooper.optim import nuPI
from torch import Tensor

from ..checks import number, one_of, whole_number
from ..plain import from_plain
from ..value_checks import where_good

DUAL_ASCENT = "dual_ascent"
NUPI = "nupi"
AUGMENTED = "augmented"
PAPER = "paper"
RUN_GAIN = 80.0
FASTEST = 2.0
UNKNOWN_LENGTH = 400
RULES = (DUAL_ASCENT, NUPI, AUGMENTED, PAPER)


@dataclass(frozen=True)
class MultiplierConfig:
    """How the multipliers move.

    Attributes:
        rule: ``"dual_ascent"``: λ ← max(0, λ + η · strict violation), without momentum. ``"nupi"``: the νPI controller
            (Sohrabi et al., ICML 2024) for multipliers that oscillate. ``"augmented"``: dual ascent and a quadratic
            penalty on the running violation (Nocedal and Wright, eq. 17.64), with the gradient of the batch's surrogate.
            ``"paper"``: no multiplier; the signed surrogate gap is added with weight 1, as the BiFP paper prints it (it
            overshoots: kept for reproduction, two groups only).
        lr: η, per training step; a validation pass every n steps moves λ by n times as much. Default: 80 divided by
            the training steps of the run (at most 2, 0.2 as long as the length is unknown) and by the number of one-sided
            constraints, as all of them push on the same weights: a violation that stays moves λ as far in a short run as
            in a long one.
        cap: Upper bound of every multiplier.
        proportional_gain: νPI only: the gain K_P. νPI with gain 0 is dual ascent.
        penalty: Augmented Lagrangian only: the penalty coefficient ρ.
        window: Number of recent batches that training-driven multipliers see.
        warmup: Training steps before the multipliers begin to move.
        margin: How much stricter than the tolerance the multipliers are, in half widths (1.96 standard errors of the gap)
            on the data that drive them (0: not at all). Tightening never goes below a tolerance of 0.

    Raises:
        ConfigError: For an unknown rule or a number that is not positive.
    """

    rule: str = DUAL_ASCENT
    lr: float | None = None
    cap: float = 10.0
    proportional_gain: float = 1.0
    penalty: float = 1.0
    window: int = 50
    warmup: int = 0
    margin: float = 0.0

    def __post_init__(self) -> None:
        one_of("multiplier rule", self.rule, RULES)
        for field in ("lr", "cap", "penalty"):
            if field != "lr" or self.lr is not None:
                self._set(field, number(field, getattr(self, field), "> 0 for the multipliers", lambda x: x > 0))
        self._set("window", whole_number("window", self.window, 1, "batches"))
        self._set("warmup", whole_number("warmup", self.warmup, 0, "training steps"))
        for field in ("proportional_gain", "margin"):
            self._set(field, number(field, getattr(self, field), "≥ 0 for the multipliers", lambda x: x >= 0))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # the class is frozen; numbers become Python's own

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> MultiplierConfig:
        """Builds a config from plain values; an unknown key is an error that lists the known ones."""
        return from_plain(cls, options, "the multipliers")

    @property
    def decay(self) -> float:
        """Forgetting factor of the running counts that makes their memory ``window`` batches long."""
        return 1 - 1 / self.window


class Multipliers:
    """Non-negative multipliers ``λ`` of shape ``(S, R, G)``, one for each one-sided constraint.

    The Lagrangian is differentiable in the primal through the *surrogate* violation, and in λ through the
    *strict* violation (proxy-Lagrangian; Cotter et al., ALT 2019).
    """

    def __init__(self, num_sides: int, num_rates: int, num_groups: int, config: MultiplierConfig) -> None:
        self.shape = (num_sides, num_rates, num_groups)
        self.config = config
        self.plan(UNKNOWN_LENGTH)
        self._build(torch.zeros(math.prod(self.shape), dtype=torch.float32))

    def plan(self, steps: int) -> None:
        """Sets the default learning rate for a run of so many training steps; one that was asked for stays."""
        self.lr = self.config.lr or min(RUN_GAIN / steps, FASTEST) / math.prod(self.shape)

    def _build(self, init: Tensor) -> None:
        self._multiplier = cooper.multipliers.DenseMultiplier(init=init, device=init.device)
        augmented = self.config.rule == AUGMENTED
        self._constraint = cooper.Constraint(
            constraint_type=cooper.ConstraintType.INEQUALITY,
            formulation_type=cooper.formulations.AugmentedLagrangian if augmented else cooper.formulations.Lagrangian,
            multiplier=self._multiplier,
            penalty_coefficient=cooper.penalty_coefficients.DensePenaltyCoefficient(
                torch.full_like(init, self.config.penalty)
            )
            if augmented
            else None,
        )
        if self.config.rule == NUPI:
            # On the CPU wherever the multipliers are: the optimizer looks at their values in every step.
            gains = {"Kp": torch.tensor(self.config.proportional_gain), "Ki": torch.tensor(1.0)}
            self._optimizer: torch.optim.Optimizer = nuPI(
                self._multiplier.parameters(), lr=self.lr, maximize=True, **gains
            )
        else:
            self._optimizer = torch.optim.SGD(self._multiplier.parameters(), lr=self.lr, maximize=True)

    @property
    def value(self) -> Tensor:
        """λ, ``(S, R, G)``, detached."""
        value: Tensor = self._multiplier.weight.detach().reshape(self.shape)
        return value

    def set(self, value: Tensor) -> None:
        """Puts the multipliers at given values, ``(S, R, G)``, cut to [0, cap]."""
        self._to(value.device)
        self._multiplier.weight.data.copy_(value.reshape(-1).clamp(0, self.config.cap))

    def penalty(self, surrogate_violation: Tensor) -> Tensor:
        """Σ λ · surrogate violation (and the quadratic term), a scalar with a gradient to the model and none to λ."""
        self._to(surrogate_violation.device)
        if self.config.rule != AUGMENTED:
            return (self.value * surrogate_violation.float()).sum()
        state = cooper.ConstraintState(violation=surrogate_violation.reshape(-1).float())
        store = self._constraint.compute_contribution_to_lagrangian(state, "primal")
        penalty: Tensor = store.lagrangian_contribution
        return penalty

    def step(self, strict_violation: Tensor, *, steps: int = 1, good: Tensor | None = None) -> None:
        """One dual step on the strict violation ``(S, R, G)``; ``steps`` scales the learning rate.

        Unless it is ``good`` (0-d bool), nothing moves.
        """
        self._to(strict_violation.device)
        before = None if good is None else [tensor.clone() for tensor in self._moving()]
        # The dual Lagrangian of every rule is λ · strict violation: its gradient needs no backward pass.
        self._multiplier.weight.grad = strict_violation.detach().reshape(-1).float()
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * steps
        self._optimizer.step()
        self._multiplier.post_step_()
        self._multiplier.weight.data.clamp_(max=self.config.cap)
        if before is not None:
            # State that the first step has made was zero before it.
            for position, tensor in enumerate(self._moving()):
                old = before[position] if position < len(before) else torch.zeros_like(tensor)
                tensor.copy_(where_good(good, tensor, old))

    def _moving(self) -> list[Tensor]:
        """λ and what the optimizer remembers of its steps."""
        state = self._optimizer.state.get(self._multiplier.weight, {})
        return [self._multiplier.weight.data, *(value for value in state.values() if isinstance(value, Tensor))]

    def state_dict(self) -> dict[str, Any]:
        # The optimizer's settings follow from the config, and νPI has an enum among them, which plain files cannot hold.
        return {"value": self.value.clone(), "optimizer": copy.deepcopy(self._optimizer.state_dict()["state"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._build(state["value"].reshape(-1).clone())
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": copy.deepcopy(state["optimizer"])})

    def _to(self, device: torch.device) -> None:
        if self._multiplier.weight.device != device:
            self._build(self._multiplier.weight.detach().to(device))
