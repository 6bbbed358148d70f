"""Which scenarios there are, with how many ranks, and what each rank plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .fits import FITS, batch_norm, fitted, resumed, separate, train_on
from .loops import BAD, LOOPS, left_out, loop, refused
from .mistakes import mistakes
from .refusals import told
from .sharded import SHARDED, sharded_loop, sharded_refused, sharded_resumed, sharded_rounds
from .sharded_mistakes import sharded_mistakes

Scenarios = dict[str, tuple[int, Callable[[int, int], dict[str, Any]]]]
"""Name → (number of ranks, what each plays)."""


def data_parallel(folder: Path) -> Scenarios:
    """Whole models, one on each rank."""
    out: Scenarios = {}
    for name, case in LOOPS.items():
        options = {key: value for key, value in case.items() if key not in ("world", "sizes")}
        _add(out, name, case.get("world", 2), loop, sizes=case.get("sizes"), **options)
        _add(out, f"{name}-single", 1, loop, **options)
    for kind in BAD:
        _add(out, f"refused-{kind}", 2, refused, kind=kind)
    _add(out, "left-out", 2, left_out)
    _add(out, "other-seeds", 2, loop, seeds_differ=True, **LOOPS["gradient-rule"])
    for function in (mistakes, train_on, batch_norm, separate):
        _add(out, function.__name__, 2, function)
    _add(out, "train_on-single", 1, train_on)
    for name, options in FITS.items():
        _add(out, name, 2, fitted, **options)
        _add(out, f"{name}-single", 1, fitted, **options)
    checkpoints = str(folder / "checkpoints")
    _add(out, "uninterrupted", 2, resumed, folder=None, stop=None, seed=0)
    _add(out, "interrupted", 2, resumed, folder=checkpoints, stop=9, seed=0)
    _add(out, "resumed", 2, resumed, folder=checkpoints, stop=None, seed=5)
    alone = 1, lambda rank, world: {"told": told(lambda: resumed(rank, world, checkpoints, None, 0))}
    return {**out, "resumed-alone": alone}


def sharded(folder: Path) -> Scenarios:
    """Models whose parameters are spread over the ranks."""
    out: Scenarios = {}
    for name, case in SHARDED.items():
        options = {key: value for key, value in case.items() if key not in ("world", "sizes")}
        _add(out, name, case.get("world", 2), sharded_loop, sizes=case.get("sizes"), **options)
        _add(out, f"{name}-single", 1, sharded_loop, **options)
    for function in (sharded_rounds, sharded_resumed, sharded_refused, sharded_mistakes):
        _add(out, function.__name__, 2, function)
    _add(out, "sharded_rounds-single", 1, sharded_rounds)
    return out


def _add(out: Scenarios, name: str, world: int, function: Callable[..., dict[str, Any]], **options: Any) -> None:
    out[name] = (world, lambda rank, ranks: function(rank, ranks, **options))
