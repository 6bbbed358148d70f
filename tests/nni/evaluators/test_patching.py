"""Replaced attributes come back as the very objects they were, however often and in whatever order it is asked for."""

from __future__ import annotations

import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairprune_plugin import FairPruneWarning
from fairprune_plugin.nni.evaluators.patching import PatchSet, Replacement


def somebody_elses() -> tuple[type, types.ModuleType]:
    """A class with a plain, a static, a class-level and an inherited attribute, and a module."""

    class Base:
        def inherited(self) -> str:
            return "base"

    class Host(Base):
        limit = 3

        def method(self) -> str:
            return "host"

        @staticmethod
        def static(value: int) -> int:
            return value

    module = types.ModuleType("host")
    module.present = object()
    return Host, module


def patch_all(host: type, module: types.ModuleType) -> PatchSet:
    """One replacement of every kind."""

    def ours(*_: Any) -> str:
        return "ours"

    pairs = [(host, "limit"), (host, "method"), (host, "static"), (host, "inherited"), (host, "new")]
    pairs += [(module, "present"), (module, "absent")]
    return PatchSet(lambda: [Replacement(owner, name, ours) for owner, name in pairs])


def contents(*owners: Any) -> list[dict[str, int]]:
    """The identity of everything the owners hold themselves (``static`` shows as a ``staticmethod`` here)."""
    return [{name: id(value) for name, value in vars(owner).items() if name != "__dict__"} for owner in owners]


def test_in_force_and_restored_exactly() -> None:
    host, module = somebody_elses()
    before = contents(host, module)
    patches = patch_all(host, module)
    assert contents(host, module) == before  # nothing until somebody holds it
    patches.hold(self := object())
    assert patches.in_force
    assert host().method() == host().inherited() == host().new() == module.absent() == "ours"
    patches.drop(self)
    assert not patches.in_force
    assert contents(host, module) == before
    assert isinstance(vars(host)["static"], staticmethod)
    assert host().static(5) == 5
    assert host().inherited() == "base"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=20))
def test_in_force_exactly_while_somebody_holds(calls: list[tuple[bool, int]]) -> None:
    """Any sequence of holds and drops by four holders, repeated and unmatched ones included."""
    host, module = somebody_elses()
    before = contents(host, module)
    patches = patch_all(host, module)
    people = [object() for _ in range(4)]
    holding: set[int] = set()
    for hold, index in calls:
        (patches.hold if hold else patches.drop)(people[index])
        (holding.add if hold else holding.discard)(index)
        assert patches.in_force == bool(holding)
        assert (contents(host, module) == before) != bool(holding)
    for person in people:
        patches.drop(person)
    assert contents(host, module) == before


def test_holders_are_told_apart_by_identity_not_by_equality() -> None:
    host, module = somebody_elses()
    patches = patch_all(host, module)
    first, second = [], []  # equal, and unhashable
    patches.hold(first)
    patches.hold(second)
    patches.drop(first)
    assert patches.in_force
    patches.drop(second)
    assert not patches.in_force


def test_somebody_elses_later_patch_is_left_and_named() -> None:
    host, module = somebody_elses()
    before = contents(module)
    patches = patch_all(host, module)
    patches.hold(self := object())
    theirs = lambda _: "theirs"  # noqa: E731
    host.method = theirs
    with pytest.warns(FairPruneWarning, match=r"Host\.method was replaced by somebody else"):
        patches.drop(self)
    assert vars(host)["method"] is theirs
    assert host.limit == 3  # everything else is restored
    assert contents(module) == before


def test_a_failing_description_leaves_nothing_behind() -> None:
    host, _ = somebody_elses()
    before = contents(host)
    patches = PatchSet(lambda: [Replacement(host, "method", None), Replacement(int, "closed", None)])
    with pytest.raises(TypeError):
        patches.hold(object())
    assert contents(host) == before
    assert not patches.in_force
