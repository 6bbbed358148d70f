"""The first Ctrl-C waits, the second does not, and nobody else's handler is touched."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from fairprune_plugin.engine.run.interrupt import deferred_interrupt


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_one_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt(True) as interrupt:
        assert not interrupt.requested
        press()
        assert interrupt.requested
        done.append("the step")
    assert done == ["the step"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_one_does_not() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt(True):
        press()
        press()
        pytest.fail("interrupted at once")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_errors_pass_through_unless_ctrl_c_caused_them() -> None:
    with pytest.raises(ValueError, match="bad batch"), deferred_interrupt(True):
        raise ValueError("bad batch")
    with pytest.raises(KeyboardInterrupt) as caught, deferred_interrupt(True):
        press()
        raise RuntimeError("a worker of the loader has gone")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_unless_wanted_everything_stays_as_it_is() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt(False):
        press()
        pytest.fail("interrupted at once")


def test_a_handler_of_the_users_own_stays() -> None:
    seen: list[Any] = []
    old = signal.signal(signal.SIGINT, lambda *args: seen.append(args))
    try:
        with deferred_interrupt(True) as interrupt:
            press()
        assert len(seen) == 1
        assert not interrupt.requested
    finally:
        signal.signal(signal.SIGINT, old)


def test_other_threads_are_left_alone() -> None:
    done = []

    def work() -> None:
        with deferred_interrupt(True) as interrupt:
            done.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [False]
