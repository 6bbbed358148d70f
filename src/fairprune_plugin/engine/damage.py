"""A saved state with a part missing or of another type is refused in words, wherever a check stumbles over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import FairPruneError, TrainingStateError


@contextmanager
def refusing_damage(what: str) -> Iterator[None]:
    """For a block that only looks.

    Args:
        what: Whose state it is, for the message.

    Raises:
        TrainingStateError: Instead of what a missing key or a wrong type raises; errors of this package pass.
    """
    try:
        yield
    except FairPruneError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise TrainingStateError(
            f"the state of the {what} is damaged ({type(error).__name__}: {error}): load an undamaged copy"
        ) from error
