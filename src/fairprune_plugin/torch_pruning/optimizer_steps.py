"""Steps of the user's optimizer, which nobody hands over: the mask is renewed after each, and each is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from ..engine.optimizers import OptimizerWatch
from ..warn import warn_caller


class OptimizerSteps:
    """Between two of a pruner's training steps comes one of the optimizer.

    Args:
        after_step: Called after every ``step()`` of an optimizer that holds the model's parameters.
    """

    def __init__(self, after_step: Callable[[], None]) -> None:
        self._after_step = after_step
        self._watch: OptimizerWatch | None = None
        self._awaited = False
        self._warned = False

    @property
    def watched(self) -> bool:
        """Whether :meth:`watch` was called, and :meth:`stop` was not."""
        return self._watch is not None

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """From now on, those of optimizers that hold some of these."""
        self._watch = OptimizerWatch(parameters, self._stepped)

    def stop(self) -> None:
        """The model's parameters are about to be others: optimizers that hold the old ones refuse to step."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def expect(self) -> None:
        """The gradients of a step are ready; warns, once, if those of the step before were never used.

        Warns:
            FairPruneWarning: At the line that called into this package.
        """
        if self._awaited and not self._warned:
            self._warned = True
            warn_caller(
                "regularize() was called twice without an optimizer step of this model's parameters in between: call it "
                "once per optimizer.step(), after the last backward() when gradients are accumulated"
            )
        self._awaited = True

    def forget(self) -> None:
        """Another state was loaded: no step is due."""
        self._awaited = False

    def _stepped(self) -> None:
        self._awaited = False
        self._after_step()
