"""Random states travel through a file and come back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from fairprune_plugin.engine.loaders.randomness import (
    generator_states,
    generators_of,
    random_state,
    set_generator_states,
    set_random_state,
)


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        float(torch.rand(())),
        *torch.randn(3),
    ]


def test_all_global_generators_come_back(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    random.gauss(0, 1)  # python and NumPy keep a second normal number back
    np.random.randn()
    torch.save(random_state(), tmp_path / "state.pt")
    first, later = draw(), draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first
    assert draw() == later
    assert first != later


def test_generators_of_loaders_are_found_wherever_they_are() -> None:
    data = TensorDataset(torch.arange(10))
    ours, samplers, own = torch.Generator(), torch.Generator(), torch.Generator()

    class Augmented(TensorDataset):
        generator = own

    assert generators_of(DataLoader(data, shuffle=True, generator=ours)) == [ours]
    assert generators_of(DataLoader(data, sampler=RandomSampler(data, generator=samplers))) == [samplers]
    assert generators_of(DataLoader(Augmented(torch.arange(4)), generator=ours)) == [ours, own]
    assert generators_of(DataLoader(data, shuffle=True)) == []
    assert generators_of([1, 2]) == []


def test_generators_go_back() -> None:
    loader = DataLoader(TensorDataset(torch.arange(20)), shuffle=True, generator=torch.Generator().manual_seed(3))
    states = generator_states(loader)
    first = [int(x) for (x,) in loader]
    assert [int(x) for (x,) in loader] != first
    set_generator_states(loader, states)
    assert [int(x) for (x,) in loader] == first
