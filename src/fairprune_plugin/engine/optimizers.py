"""The user's optimizer: re-masking after its steps, and its parameters once they have become smaller."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from ..checks import shown
from ..errors import ConfigError, StaleOptimizerError
from ..shards import is_sharded, spread, whole_of

# Handles of watches that were garbage collected. Collection can happen in the middle of any optimizer's step, while torch
# walks its hooks, so they are removed at the next occasion that is ours; until then such a hook does nothing.
_RETIRED: list[Any] = []
# Whose parameters were replaced, and the hook that says so.
_STALE: weakref.WeakKeyDictionary[Optimizer, RemovableHandle] = weakref.WeakKeyDictionary()


def _remove_retired() -> None:
    while _RETIRED:
        _RETIRED.pop().remove()


class OptimizerWatch:
    """Calls back after every ``step()`` of an optimizer that holds watched parameters.

    The user's loop hands us no optimizer, so torch's own global step hook is used, from the first training
    step until :meth:`stop`.

    Args:
        parameters: Those of the model in training.
        after_step: Called without arguments. Held weakly if it is a bound method, so that a forgotten pruner
            can be collected.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], after_step: Callable[[], None]) -> None:
        self._watched = {id(parameter) for parameter in parameters}
        self._concerned: weakref.WeakKeyDictionary[Optimizer, tuple[int, bool]] = weakref.WeakKeyDictionary()
        callback = weakref.WeakMethod(after_step) if hasattr(after_step, "__self__") else (lambda: after_step)
        watch = weakref.ref(self)

        def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            live, call = watch(), callback()
            if live is not None and call is not None and live._concerns(optimizer):
                call()

        _remove_retired()
        self._handle = register_optimizer_step_post_hook(hook)
        weakref.finalize(self, _RETIRED.append, self._handle)

    def _concerns(self, optimizer: Optimizer) -> bool:
        groups = optimizer.param_groups
        size, concerned = self._concerned.get(optimizer, (-1, False))
        if size != len(groups):  # new, or add_param_group() was called since
            concerned = any(id(p) in self._watched for group in groups for p in group["params"])
            self._concerned[optimizer] = (len(groups), concerned)
        return concerned

    def stop(self) -> None:
        """No more callbacks; the optimizers that were seen refuse to step on replaced parameters."""
        self._handle.remove()
        _remove_retired()
        for optimizer, (_, concerned) in list(self._concerned.items()):
            if concerned and optimizer not in _STALE:
                _STALE[optimizer] = optimizer.register_step_pre_hook(_refuse)


def _refuse(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    refuse_replaced(optimizer)


def refuse_replaced(optimizer: Optimizer) -> None:
    """Of a step that is to be taken, or a run of ``fit`` that begins.

    Raises:
        StaleOptimizerError: For an optimizer whose parameters a removal has replaced.
    """
    if optimizer in _STALE:
        raise StaleOptimizerError(
            "this optimizer holds parameters that pruner.step() has replaced by smaller ones: continue with "
            "optimizer = pruner.rebuild_optimizer(optimizer), or make a new one from model.parameters()"
        )


def rebuild(optimizer: Optimizer, renewed: Mapping[Tensor, tuple[Tensor, list[Tensor]]]) -> Optimizer:
    """Makes an optimizer one of the smaller model, in place: whatever refers to it (schedulers, scalers, wrappers, its
    hooks) or holds its groups goes on with it, and no setting of it can be lost.

    Args:
        optimizer: The one used before channels were removed; optimizers that are attributes of it come along.
        renewed: Old parameter → (new parameter, kept positions along every dimension).

    Returns:
        The same optimizer over the new parameters: same groups, learning rates and momenta.

    Raises:
        ConfigError: For something that is no optimizer.
    """
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"expected a torch optimizer to rebuild, got {shown(optimizer)}")
    concerned = _with_its_own(optimizer)
    states = [_smaller_state(own, renewed) for own in concerned]  # all of it before the first change
    for own, state in zip(concerned, states, strict=True):
        for group in own.param_groups:
            # The list stays: some optimizers (LBFGS) hold on to it.
            group["params"][:] = [renewed[p][0] if p in renewed else p for p in group["params"]]
        for old in renewed:
            own.state.pop(old, None)
        own.state.update(state)
        if isinstance(own, LBFGS):  # directions over all parameters together
            own.state.clear()
            own._numel_cache = None
        refusal = _STALE.pop(own, None)
        if refusal is not None:
            refusal.remove()
    return optimizer


def _with_its_own(optimizer: Optimizer) -> list[Optimizer]:
    """An optimizer and those that it wraps, however deep; their steps and states are theirs."""
    found = [optimizer]
    for own in found:  # grows as it goes
        for value in vars(own).values():
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(part, Optimizer) and all(part is not other for other in found):
                    found.append(part)
    return found


def _smaller_state(
    optimizer: Optimizer, renewed: Mapping[Tensor, tuple[Tensor, list[Tensor]]]
) -> dict[Tensor, dict[str, Any]]:
    out = {}
    for old, (new, kept) in renewed.items():
        state = optimizer.state.get(old)
        # Factored statistics (Adafactor's rows and columns) have no channel to cut: start that state afresh.
        if state is not None and all(_fits(value, old) for value in state.values()):
            out[new] = {key: _cut(value, old, kept, new) for key, value in state.items()}
    return out


def _fits(value: Any, old: Tensor) -> bool:
    return not isinstance(value, Tensor) or value.dim() == 0 or value.shape == old.shape


def _cut(value: Any, old: Tensor, kept: list[Tensor], new: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value.clone() if isinstance(value, Tensor) else value
    sharded = is_sharded(value)
    value = whole_of(value)
    for dim, positions in enumerate(kept):
        value = value.index_select(dim, positions.to(value.device))
    return spread(value, new) if sharded or is_sharded(new) else value.clone()


def kept_positions(old: Tensor, hidden: Mapping[int, Tensor]) -> list[Tensor]:
    """Positions that stay along every dimension, given the hidden ones of some."""
    out = []
    for dim, size in enumerate(old.shape):
        stay = torch.ones(size, dtype=torch.bool)
        if dim in hidden:
            stay[hidden[dim].cpu()] = False
        out.append(stay.nonzero().reshape(-1))
    return out
