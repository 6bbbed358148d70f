"""Endless batches of a loader, at a position that can be written down and gone back to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from torch.utils.data.distributed import DistributedSampler

from ...errors import DataError
from .empty_batches import has_no_samples
from .folds import Folds
from .randomness import generator_states, random_state, set_generator_states, set_random_state

Pass = Callable[[int], Iterable[Any]]


class BatchStream:
    """The batches of pass 0, 1, 2, … over some data; those without samples are left out.

    A position is the random state at the beginning of the pass and the number of batches taken since. Going back
    to it walks the loader up to there again, so that the order of a shuffled pass is the same one.

    Args:
        loader_of: The loader of a pass by its number.
        empty: What to say of a pass without any batch.
    """

    def __init__(self, loader_of: Pass, empty: str) -> None:
        self._loader_of = loader_of
        self._empty = empty
        self._number = -1
        self._taken = 0
        self._start: dict[str, Any] | None = None
        self._loader: Iterable[Any] = ()
        self._batches: Iterator[Any] = iter(())

    @classmethod
    def over(cls, loader: Iterable[Any], name: str) -> Self:
        """The batches of one loader over and over."""
        return cls(
            lambda _: loader,
            f"the {name} loader yields no batch (any more): pass something that can be iterated again and again, "
            "such as a DataLoader or a list of batches, not a generator",
        )

    @classmethod
    def beside_folds(cls, folds: Folds, hold_out: Callable[[Iterable[Any]], None]) -> Self:
        """In every pass, the batches outside of the part that is held out in it.

        Args:
            folds: Parts of the training data.
            hold_out: Told the held-out batches at the beginning of each pass.
        """

        def loader_of(number: int) -> Iterable[Any]:
            training, held_out = folds.of_pass(number)
            hold_out(held_out)
            return training

        return cls(
            loader_of,
            f"no training batch is left beside the held-out fold of {folds.k}: use fewer folds, a smaller batch_size, or "
            "drop_last=False",
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            DataError: If a pass has none.
        """
        if self._start is not None:
            batch = self._next_of_this_pass()
            if batch is not self:
                return batch
        self._begin(self._number + 1)
        batch = self._next_of_this_pass()
        if batch is self:
            raise DataError(self._empty)
        return batch

    def _next_of_this_pass(self) -> Any:
        """``self`` at its end. What is left out counts as taken."""
        for batch in self._batches:
            self._taken += 1
            if not has_no_samples(batch):
                return batch
        return self

    def state_dict(self) -> dict[str, Any]:
        """The position; the loader's own generators as they are now go with it."""
        generators = [] if self._start is None else generator_states(self._loader)
        return {"pass": self._number, "taken": self._taken, "start": self._start, "generators": generators}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a position. The global random state is used up on the way: set it afterwards.

        Raises:
            DataError: If the loader ends before it.
        """
        self._number, self._taken, self._start = state["pass"], 0, None
        if state["start"] is None:
            return
        set_random_state(state["start"]["global"])
        self._begin(state["pass"], state["start"]["generators"])
        for _ in range(state["taken"]):
            if next(self._batches, self) is self:
                raise DataError(
                    f"the checkpoint was written {state['taken']} batches into a pass over a loader that has only "
                    f"{self._taken} now: continue a run with the data it was started with"
                )
            self._taken += 1
        set_generator_states(self._loader, state["generators"])

    def _begin(self, number: int, generators: list[Any] | None = None) -> None:
        self._number, self._taken = number, 0
        self._loader = self._loader_of(number)
        _tell_epoch(self._loader, number)
        if generators is not None:
            set_generator_states(self._loader, generators)
        self._start = {"global": random_state(), "generators": generator_states(self._loader)}
        self._batches = iter(self._loader)


def _tell_epoch(loader: Any, number: int) -> None:
    """Samplers that share data out over ranks shuffle by the number of the pass, which they must be told."""
    for sampler in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(number)
