"""Switching the patches on and off where there is nothing to patch."""

from __future__ import annotations

from types import ModuleType

import pytest

from fairprune_plugin import FairPruneError
from fairprune_plugin.nni import evaluators
from fairprune_plugin.nni.evaluators import lightning, transformers


def nothing(_: ModuleType) -> list[object]:
    """What a trainer that is not installed offers."""
    return []


def test_without_any_trainer_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning, "replacements", nothing)
    monkeypatch.setattr(transformers, "replacements", nothing)
    with pytest.raises(FairPruneError, match="pip install lightning"):
        evaluators.patch_evaluators()
    assert not evaluators.evaluators_are_patched()
    with pytest.raises(ImportError, match="TorchEvaluator needs no patch"), evaluators.patched_evaluators():
        pass
    assert not evaluators.evaluators_are_patched()


def test_one_trainer_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning, "replacements", nothing)
    with evaluators.patched_evaluators():
        assert evaluators.evaluators_are_patched()
    assert not evaluators.evaluators_are_patched()


def test_restoring_what_was_never_patched_changes_nothing() -> None:
    evaluators.restore_evaluators()
    assert not evaluators.evaluators_are_patched()
