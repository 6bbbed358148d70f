"""Flat numbering of units."""

from __future__ import annotations

import torch

from fairprune_plugin.masks.groups import unit_axis, unit_offsets
from toy_networks import Chain


def test_offsets_end_with_the_total() -> None:
    assert unit_offsets(Chain((3, 7)).groups()) == [0, 3, 10]
    assert unit_offsets(()) == [0]


def test_an_axis_belongs_to_nobody_at_first() -> None:
    assert unit_axis(3, torch.device("cpu")).tolist() == [-1, -1, -1]


def test_sites_are_masked_and_carried_ones() -> None:
    group = Chain().groups()[0]
    assert group.sites == group.masked + group.carried
    assert len(group.sites) == 5
