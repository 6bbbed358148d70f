"""The host's groups of channels are found once: finding them takes about as long as tracing the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


class FoundGroups:
    """Stands in for ``get_all_groups`` of a graph from which nothing is pruned meanwhile.

    Args:
        graph: The host's dependency graph.
    """

    def __init__(self, graph: Any) -> None:
        self._find = graph.get_all_groups
        self._known: list[tuple[list[Any], tuple[Any, ...], list[Any]]] = []

    def __call__(self, ignored_layers: Sequence[Any] = (), **options: Any) -> Iterator[Any]:
        """As the host's: all groups, one after the other; kept when somebody has gone through all of them."""
        asked = list(ignored_layers), tuple(sorted(options.items()))
        for *before, groups in self._known:
            if tuple(before) == asked:
                yield from groups
                return
        found = []
        for group in self._find(ignored_layers=asked[0], **options):
            found.append(group)
            yield group
        self._known.append((*asked, found))


class FindsGroupsOnce:
    """Mixed into a ``tp.pruner.BasePruner``, which goes through all groups as it is built, to count channels: as long as
    nothing is pruned they are not looked for again."""

    _nothing_is_pruned = True

    @property
    def DG(self) -> Any:
        """The host's dependency graph of the model."""
        return self._graph

    @DG.setter
    def DG(self, graph: Any) -> None:
        self._graph = graph
        if self._nothing_is_pruned:
            graph.get_all_groups = FoundGroups(graph)

    def find_groups_anew(self) -> None:
        """From now on something may be pruned."""
        self._nothing_is_pruned = False
        vars(self._graph).pop("get_all_groups", None)
