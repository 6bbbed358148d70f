"""NNI's trainer evaluators on today's trainers: ``LightningEvaluator`` on Lightning 2, ``TransformersEvaluator`` on
transformers 5.

NNI 3.0 dates from September 2023 and neither trains as shipped. Nothing is changed by importing this module:

    from fairprune_plugin.nni.evaluators import patched_evaluators

    with patched_evaluators():
        pruner = BiFPPruner(model, config_list, TransformersEvaluator(trainer), ...)
        model, masks = pruner.compress(max_steps, None)

or, in a notebook, :func:`patch_evaluators` and :func:`restore_evaluators`. Build, use and unwrap the pruner while the
patch is in force.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import MissingHostError
from . import lightning, transformers
from .patching import PatchSet, Replacement

__all__ = ["evaluators_are_patched", "patch_evaluators", "patched_evaluators", "restore_evaluators"]


def _replacements() -> list[Replacement]:
    evaluators = importlib.import_module("nni.compression.utils.evaluator")
    found = lightning.replacements(evaluators) + transformers.replacements(evaluators)
    if not found:
        raise MissingHostError(
            "neither Lightning nor transformers is installed, so there is no evaluator to patch: pip install lightning, or "
            "pip install transformers accelerate; TorchEvaluator needs no patch"
        )
    return found


_PATCHES = PatchSet(_replacements)
_SWITCH = object()


def patch_evaluators() -> None:
    """Switches the patches on until :func:`restore_evaluators`; calling it twice changes nothing.

    Raises:
        MissingHostError: If neither Lightning nor transformers is installed.
    """
    _PATCHES.hold(_SWITCH)


def restore_evaluators() -> None:
    """Undoes :func:`patch_evaluators`; NNI's classes are as before unless a ``with patched_evaluators()`` is open."""
    _PATCHES.drop(_SWITCH)


def evaluators_are_patched() -> bool:
    """Whether NNI's evaluators are patched at the moment."""
    return _PATCHES.in_force


@contextmanager
def patched_evaluators() -> Iterator[None]:
    """The patches hold inside the ``with`` block; blocks may be nested.

    Raises:
        MissingHostError: See :func:`patch_evaluators`.
    """
    holder = object()
    _PATCHES.hold(holder)
    try:
        yield
    finally:
        _PATCHES.drop(holder)
