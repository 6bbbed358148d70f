"""Which steps a writer looks at."""

from __future__ import annotations

from ..checks import whole_number


def checked_every(every: int) -> int:
    """Number of training steps between two rows that are written.

    Raises:
        ConfigError: If it is not a positive whole number.
    """
    return whole_number("every", every, 1, "training steps")
