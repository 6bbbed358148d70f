"""The state of a run of ``fit``: what a checkpoint holds, and how a new process goes on from it.

Everything that the next step depends on is here: model, optimizer, scheduler, the pruner, what is trained beside the model,
the snapshot, the position in every stream of batches, and the random state. The tensors are those of the run, not copies:
write them at once.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, TrainingStateError
from ..damage import refusing_damage
from ..loaders.randomness import generator_states, random_state, set_generator_states, set_random_state
from ..results.evaluation_state import row_from, snapshot_from, snapshot_state
from .preflight import length
from .trained_beside import load_loss_state, load_parameters, loss_state, shapes_of_loss

if TYPE_CHECKING:
    from .fit import Run

FORMAT = "fairprune_plugin run 3"
KEYS = (
    *("pruner", "model", "optimizer", "lr_scheduler", "trained_beside", "task_loss", "task_loss_rest"),
    *("snapshot", "history", "loss_mean", "evaluation_passes"),
    *("batches", "mask_batches", "stream", "generators", "random"),
)


# What is another one on every rank of a data-parallel run: positions in batches, random states, running values.
OF_EACH_RANK = ("batches", "mask_batches", "stream", "generators", "random", "loss_mean", "task_loss_rest")


def settings_of(run: Run) -> dict[str, Any]:
    """Plain values that must be the same for a run to be continued."""
    options = run.options
    return {
        "processes": run.ranks.size,
        "total_steps": run.total,
        "validate_every": run.every,
        "dual_every": options.dual_every,
        "driver": run.driver,
        "folds": options.folds if run.folds is not None else None,
        "select_by": options.select_by,
        "recalibration_batches": options.recalibration_batches,
        "remove_early": options.remove_early,
        "optimizer": type(run.optimizer).__name__,
        "lr_scheduler": None if run.lr_scheduler is None else type(run.lr_scheduler).__name__,
        "training batches": length(run.train),
        "validation batches": _length(run.validation),
        "mask batches": _length(run.mask_loader),
        **run.hyper_parameters,
        "parameters trained beside the model": [list(parameter.shape) for parameter in run.beside],
        "state of the task loss": shapes_of_loss(run.host.lagrangian.task_loss, run.host.model),
    }


def _length(loader: Any) -> int | str | None:
    """Number of batches; whether there is a loader at all counts as well."""
    return "no loader" if loader is None else length(loader)


def run_state(run: Run) -> dict[str, Any]:
    """See the module. Under data parallelism all ranks must call this; what it returns is the whole on each."""
    state = _own_state(run)
    if run.ranks.size > 1:
        state["ranks"] = run.ranks.collect(lambda: {key: state[key] for key in OF_EACH_RANK})
    return state


def _own_state(run: Run) -> dict[str, Any]:
    of_loss, rest = loss_state(run.host.lagrangian.task_loss, run.host.model)
    return {
        "format": FORMAT,
        "settings": settings_of(run),
        "pruner": run.host.state_dict(),
        "model": dict(run.host.model.state_dict()),
        "optimizer": run.optimizer.state_dict(),
        "lr_scheduler": None if run.lr_scheduler is None else run.lr_scheduler.state_dict(),
        "trained_beside": [parameter.detach() for parameter in run.beside],
        "task_loss": of_loss,
        "task_loss_rest": rest,
        "snapshot": snapshot_state(run.snapshots.best),
        "history": [asdict(row) for row in run.history],
        "loss_mean": run.loss_mean.value,
        "evaluation_passes": run.evaluation.passes,
        "batches": run.batches.state_dict(),
        "mask_batches": None if run.mask_batches is None else run.mask_batches.state_dict(),
        "stream": None if run.stream is None else run.stream.state_dict(),
        "generators": [generator_states(loader) for loader in _loaders(run)],
        "random": random_state(),
    }


def check_run_state(run: Run, state: dict[str, Any]) -> None:
    """Looks, without changing anything, whether a state is one of this run.

    Raises:
        TrainingStateError: If it is something else.
        ConfigError: If it is of another model or of a run with other settings; they are named.
    """
    if state.get("format") != FORMAT:
        raise TrainingStateError(f"expected a checkpoint of fit ({FORMAT!r}), got {state.get('format')!r}")
    with refusing_damage("run"):
        _check(run, state)


def _check(run: Run, state: dict[str, Any]) -> None:
    saved, own = state["settings"], settings_of(run)
    # Optimizers of other versions of torch may have other options.
    both = [key for key in own if key in saved or key not in run.hyper_parameters]
    other = [f"{key} was {saved.get(key)!r} and is {own[key]!r}" for key in both if saved.get(key) != own[key]]
    if other:
        raise ConfigError(f"written by a run with other settings: {'; '.join(other)}")
    missing = [key for key in KEYS if key not in state]
    if missing:
        raise KeyError(", ".join(missing))
    run.host.check_state(state["pruner"])
    held = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    holds = [len(group["params"]) for group in run.optimizer.param_groups]
    if held != holds:
        raise ConfigError(
            f"written with an optimizer that held {held} parameters in its groups; this one holds {holds}"
        )


def load_run_state(run: Run, state: dict[str, Any]) -> None:
    """Puts a run where the state was taken; checked before by :func:`check_run_state`."""
    if "ranks" in state:
        state = {**state, **state["ranks"][run.ranks.index]}
    host = run.host
    parameters = {id(p) for p in host.model.parameters()}
    host.load_state_dict(state["pruner"])
    if any(id(p) not in parameters for p in host.model.parameters()):  # rounds of removal were done again
        host.rebuild_optimizer(run.optimizer)
    host.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.lr_scheduler is not None:
        run.lr_scheduler.load_state_dict(state["lr_scheduler"])
    load_loss_state(host.lagrangian.task_loss, {**state["task_loss"], **state["task_loss_rest"]})
    load_parameters(run.beside, state["trained_beside"])
    trackers = host.lagrangian.trackers
    run.snapshots.best = snapshot_from(state["snapshot"], trackers)
    run.history[:] = [row_from(row) for row in state["history"]]
    run.loss_mean.value = state["loss_mean"]
    run.evaluation.passes = state["evaluation_passes"]
    run.batches.load_state_dict(state["batches"])  # before the stream, which a fold in it switches
    if run.mask_batches is not None:
        run.mask_batches.load_state_dict(state["mask_batches"])
    if run.stream is not None:
        run.stream.load_state_dict(state["stream"], host.lagrangian)
    for loader, generators in zip(_loaders(run), state["generators"], strict=True):
        set_generator_states(loader, generators)
    set_random_state(state["random"])


def _loaders(run: Run) -> list[Any]:
    return [loader for loader in (run.train, run.validation, run.mask_loader) if loader is not None]
