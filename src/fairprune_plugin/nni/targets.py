"""NNI's target spaces, read once: which targets have a goal, which follow one of those, and which share their units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nni.compression.base.target_space import PruningTargetSpace, TargetType
from torch import Tensor, nn

from ..errors import ConfigError
from .unit_set import Key, listed

Spaces = Mapping[str, Mapping[str, PruningTargetSpace]]


class Targets:
    """The parameters that a pruner masks. *Active* ones have a goal (or share units with one that has), others may align.

    Args:
        model: Wrapped or not.
        wrappers: NNI's wrappers by module name; what is frozen there is left as it is.
        spaces: The pruner's target spaces.

    Raises:
        ConfigError: For an activation, an alignment with what is not there, or if nothing is to be pruned.
    """

    def __init__(self, model: nn.Module, wrappers: Mapping[str, Any], spaces: Spaces) -> None:
        order = {name: index for index, (name, _) in enumerate(model.named_modules())}  # NNI's own is a set's
        self._spaces = {
            (module, name): space
            for module, targets in sorted(spaces.items(), key=lambda item: order.get(item[0], len(order)))
            for name, space in targets.items()
            if isinstance(space.target, Tensor) and not wrappers[module].is_frozen
        }
        _check_types(spaces)
        self._active = {key: space for key, space in self._spaces.items() if _is_active(space)}
        if not self._active:
            raise ConfigError(
                "config_list prunes nothing: no target has a sparse_ratio or sparse_threshold (or all of them were "
                "configured by an earlier compressor, whose masks stay as they are)"
            )
        self._aligned = {key: self._source(key) for key, space in self._spaces.items() if key not in self._active}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._spaces)

    @property
    def aligned(self) -> Iterator[Key]:
        """Targets without a goal of their own."""
        return iter(self._aligned)

    def space(self, key: Key) -> PruningTargetSpace:
        """NNI's target space."""
        return self._spaces[key]

    def tensor(self, key: Key) -> Tensor:
        """The live parameter."""
        target = self._spaces[key].target
        assert isinstance(target, Tensor)
        return target

    def root(self, key: Key) -> Key | None:
        """The active target whose units a target follows, if there is one.

        Raises:
            ConfigError: If alignments go round in a circle.
        """
        seen = [key]
        while seen[-1] not in self._active:
            source = self._aligned.get(seen[-1])
            if source is None:
                return None
            if source in seen:
                raise ConfigError(f"the alignments of {', '.join('.'.join(k) for k in seen)} go round in a circle")
            seen.append(source)
        return seen[-1]

    def bundles(self) -> list[tuple[Key, ...]]:
        """Targets that share units: dependency groups first, every other target on its own.

        All members of a group are active from then on.

        Raises:
            ConfigError: If members of a group have different ratios.
        """
        together: dict[Any, list[Key]] = {}
        for key, space in self._spaces.items():
            group = space.dependency_group_id
            if group is not None:
                together.setdefault(("together", group), []).append(key)
            elif key in self._active:
                together[key] = [key]
        bundles = []
        for keys in together.values():
            ratios = {self._spaces[key].sparse_ratio for key in keys} - {None}
            if len(ratios) > 1:
                raise ConfigError(f"{listed(keys)} share a dependency_group_id but have sparse ratios {sorted(ratios)}")
            if ratios or any(key in self._active for key in keys):
                bundles.append(tuple(keys))
        for bundle in bundles:
            self._active.update({key: self._spaces[key] for key in bundle})
        return bundles

    def _source(self, key: Key) -> Key | None:
        """What an inactive target aligns with, if that is configured at all."""
        align = self._spaces[key].align
        if align is None:
            return None
        source = (align["module_name"] or key[0], align["target_name"])
        if source not in self._spaces:
            if align["module_name"] is None:
                return None
            raise ConfigError(f"{key[0]}.{key[1]} aligns with {source[0]}.{source[1]}, which is not in config_list")
        return source if _is_active(self._spaces[source]) or self._spaces[source].align else None


def _check_types(spaces: Spaces) -> None:
    for module, targets in spaces.items():
        for name, space in targets.items():
            if space.type is not TargetType.PARAMETER:
                raise ConfigError(f"{module}.{name} is an activation: this pruner masks parameters only")


def _is_active(space: PruningTargetSpace) -> bool:
    return space.sparse_ratio is not None or space.sparse_threshold is not None
