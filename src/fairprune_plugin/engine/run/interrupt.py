"""Ctrl-C between two training steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """Whether Ctrl-C was pressed."""

    requested = False


@contextmanager
def deferred_interrupt(wanted: bool) -> Iterator[Interrupt]:
    """If wanted: within the block the first Ctrl-C only leaves a note, for whoever looks at a good moment, and interrupts at
    the end of the block; a second one interrupts at once. Outside of the main thread, or where SIGINT has another handler
    than Python's own, everything stays as it is.
    """
    interrupt = Interrupt()
    ours = (
        wanted
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> Any:
        if interrupt.requested:
            signal.default_int_handler(number, frame)
        interrupt.requested = True

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    except Exception as error:
        if interrupt.requested:  # workers of a loader end at Ctrl-C as well, and then the loader fails
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupt.requested:
        raise KeyboardInterrupt
