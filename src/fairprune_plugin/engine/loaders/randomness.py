"""Every source of random numbers that a training loop draws on, as plain values."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator


def random_state() -> dict[str, Any]:
    """State of the global generators: python's, torch's (every CUDA device's), and NumPy's legacy one if it is loaded."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, position, has_gauss, cached = numpy.random.get_state()
        words = torch.tensor(keys.astype("int64"), dtype=torch.int64)
        state["numpy"] = (str(name), words, int(position), int(has_gauss), float(cached))
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Puts them where :func:`random_state` found them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    if "numpy" in state:
        import numpy

        name, words, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((name, words.numpy().astype("uint32"), position, has_gauss, cached))


def generators_of(loader: Any) -> list[Generator]:
    """Generators of a loader's own: its attribute ``generator``, and those of its samplers and data set."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = [loader, sampler, batches, getattr(batches, "sampler", None), getattr(loader, "dataset", None)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, Generator)}.values())


def generator_states(loader: Any) -> list[torch.Tensor]:
    """Their states, in the order of :func:`generators_of`."""
    return [generator.get_state() for generator in generators_of(loader)]


def set_generator_states(loader: Any, states: Sequence[torch.Tensor]) -> None:
    """Puts the generators of a loader where :func:`generator_states` found them."""
    for generator, state in zip(generators_of(loader), states, strict=True):
        generator.set_state(state)
