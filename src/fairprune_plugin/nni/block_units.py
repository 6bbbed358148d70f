"""Units that need no graph: blocks of targets (a weight, a row, a tile), with what aligns with them."""

from __future__ import annotations

from functools import reduce
from math import lcm, prod

from ..errors import ConfigError
from ..masks.groups import BlockGroup, BlockSite
from .config_list import read_pattern
from .targets import Targets
from .unit_set import Key, UnitSet, listed


def block_units(targets: Targets, keys: tuple[Key, ...]) -> UnitSet:
    """The units of targets that share them, one block of each.

    Args:
        targets: Of the pruner.
        keys: One of their bundles.

    Raises:
        ConfigError: If the blocks do not fit the shapes, or the targets have different numbers of them.
    """
    sites = [block_site(targets, key) for key in keys]
    counts = {prod(site.grid) for site in sites}
    if len(counts) > 1:
        raise ConfigError(
            f"{listed(keys)} share a dependency_group_id but have {sorted(counts)} units: only layers with equally "
            "many channels can lose them together"
        )
    blocks = reduce(lcm, [targets.space(key).internal_metric_block or 1 for key in keys])
    num_units, rest = divmod(counts.pop(), blocks)
    if rest or num_units == 0:
        raise ConfigError(f"{listed(keys)}: internal_metric_block {blocks} does not divide the number of units")
    pattern = read_pattern(targets.space(keys[0]).granularity)
    sites += [site for key in targets.aligned if (site := _aligned_site(targets, key, keys)) is not None]
    grain = sum(targets.tensor(key).numel() for key in keys) // num_units
    name = ".".join(keys[0])
    return UnitSet(keys, BlockGroup(name, num_units, tuple(sites)), grain, pattern=pattern)


def block_site(targets: Targets, key: Key) -> BlockSite:
    """How a target is cut into blocks, by its granularity.

    Raises:
        ConfigError: If they do not fit its shape.
    """
    space, target = targets.space(key), targets.tensor(key)
    name = ".".join(key)
    pattern = read_pattern(space.granularity)
    if pattern is not None and (target.dim() < 2 or target.shape[1] % pattern[1]):
        raise ConfigError(
            f"granularity {space.granularity!r} needs a multiple of {pattern[1]} inputs, and {name} has shape "
            f"{tuple(target.shape)}: leave this layer out (exclude_op_names)"
        )
    block = [1] * target.dim()
    if space._scaler is not None:
        kernel, scaler = list(space._scaler.kernel_size), space._scaler
        padding = [scaler.kernel_padding_val] * (target.dim() - len(kernel))
        kernel = padding + kernel if scaler.kernel_padding_mode == "front" else kernel + padding
        if len(kernel) != target.dim():
            raise ConfigError(f"granularity {kernel} of {name} has more dimensions than its shape {target.shape}")
        block = [size if step == -1 else step for step, size in zip(kernel, target.shape, strict=True)]
    if any(step < 1 or size % step for step, size in zip(block, target.shape, strict=True)):
        raise ConfigError(f"granularity {block} does not divide the shape {tuple(target.shape)} of {name}")
    return BlockSite(target, name, tuple(block))


def _aligned_site(targets: Targets, key: Key, keys: tuple[Key, ...]) -> BlockSite | None:
    """Rows of a vector (bias, norm affine) that go with the rows of a target; other alignments only mask."""
    root, target = targets.root(key), targets.tensor(key)
    align = targets.space(key).align
    if root not in keys or target.dim() != 1 or align is None or align["dims"] != [0]:
        return None
    grid = block_site(targets, root).grid
    # Of one input channel a grid is (1, …, 1), and no row: units are rows only if every row is one.
    if not grid[0] == prod(grid) == len(targets.tensor(root)) == len(target):
        return None
    return BlockSite(target, ".".join(key), (1,))
