"""Conditions on the values of tensors: looked at at once on the CPU, some steps later on an accelerator.

To look at a value on an accelerator is to wait until everything queued before it is done. So in a training step a
condition becomes a flag there; a bad step is made harmless there, as all that keep state take :func:`where_good`; and the
flags travel to the host on their own, where they are read once they have arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import FairPruneError

MakeError = Callable[[], FairPruneError]
MOST_STEPS_LATE = 64  # flags that have not arrived after so many steps are waited for

_collecting: ContextVar[ValueChecks | None] = ContextVar("collecting", default=None)


def reading_waits(device: torch.device) -> bool:
    """Whether the host has to wait for a device before it can read a value there."""
    return device.type != "cpu"


def refuse_if(bad: Tensor, error: MakeError) -> None:
    """Raises, now or later, if a condition holds.

    Args:
        bad: 0-d bool.
        error: Makes the error; called when the flag is read, so that it may read values for its message.
    """
    checks = _collecting.get()
    if checks is not None and checks.defers(bad.device):
        checks.note(bad, error)
    elif bool(bad):
        raise error()


def known_in_range(values: Tensor, stop: int) -> bool:
    """Whether whole numbers all lie in [0, stop), as far as that can be told without waiting for a device.

    Where it can, what is done about numbers outside of it, flag by flag, can be left out.
    """
    if reading_waits(values.device) or not values.numel():
        return False
    low, high = torch.aminmax(values)
    return int(low) >= 0 and int(high) < stop


def where_good(good: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """The new state after a good step, the old one after a bad one; ``None``: what was bad has been refused already."""
    return new if good is None else torch.where(good, new, old)


@dataclass(frozen=True)
class _Sent:
    """The flags of a step on their way: ``(k,)`` bool on the host, valid once the event has happened."""

    flags: Tensor
    errors: tuple[MakeError, ...]
    arrival: Any

    def arrived(self) -> bool:
        return self.arrival is None or bool(self.arrival.query())

    def read(self, *, wait: bool) -> None:
        if wait and self.arrival is not None:
            self.arrival.synchronize()
        # Through NumPy: no operation of torch on a tensor that is on the host already.
        for bad, error in zip(self.flags.numpy(), self.errors, strict=True):
            if bad:
                late = error()
                late.add_note(
                    "found on an accelerator, where values are looked at some steps later: that step left weights, scores, "
                    "multipliers, counts and buffers without its gradients"
                )
                raise late


class ValueChecks:
    """The checks of one run, in training steps.

    Args:
        deferred: Whether values are looked at later; default: on devices whose values the host would have to wait for.
    """

    def __init__(self, *, deferred: bool | None = None) -> None:
        self.deferred = deferred
        self._step: list[tuple[Tensor, MakeError]] = []
        self._sent: deque[_Sent] = deque()

    def defers(self, device: torch.device) -> bool:
        """Whether conditions on values of a device are looked at later."""
        return reading_waits(device) if self.deferred is None else self.deferred

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside, :func:`refuse_if` may put off the look at a value until later. Conditions on a batch that is refused at
        once are forgotten."""
        token, before = _collecting.set(self), len(self._step)
        try:
            yield
        except BaseException:
            del self._step[before:]
            raise
        finally:
            _collecting.reset(token)

    def note(self, bad: Tensor, error: MakeError) -> None:
        """Remembers a condition of this training step."""
        self._step.append((bad.detach(), error))

    def good(self) -> Tensor | None:
        """Whether nothing in this step was bad so far, 0-d bool; ``None`` if nothing was put off."""
        return ~torch.stack([bad for bad, _ in self._step]).any() if self._step else None

    def end_step(self) -> None:
        """Sends the flags of this step to the host, without waiting for them."""
        if not self._step:
            return
        flags = torch.stack([bad for bad, _ in self._step])
        errors = tuple(error for _, error in self._step)
        self._step.clear()
        self._sent.append(_Sent(flags.to("cpu", non_blocking=True), errors, _event(flags.device)))

    def raise_arrived(self) -> None:
        """Raises what earlier steps have found, as far as it is known."""
        while self._sent and (self._sent[0].arrived() or len(self._sent) > MOST_STEPS_LATE):
            self._sent.popleft().read(wait=True)

    def settle(self) -> None:
        """Waits for the flags of all steps and raises what they have found."""
        while self._sent:
            self._sent.popleft().read(wait=True)


def _event(device: torch.device) -> Any:
    """Happens when everything queued on the device so far is done; ``None`` where copies to the host are immediate."""
    module: Any = getattr(torch, device.type, None)
    if not hasattr(module, "Event"):
        return None
    event = module.Event()
    event.record()
    return event
