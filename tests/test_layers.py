"""Imports point one way: hosts → engine → fairness and masks. The engine knows no host, and nobody the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fairprune_plugin

ROOT = Path(fairprune_plugin.__file__).parent

# What each folder may import besides its own files and the modules beside the folders.
MAY_IMPORT: dict[str, set[str]] = {
    "fairness": set(),
    "masks": set(),
    "engine": {"fairness", "masks"},
    "writers": {"engine"},
    "audit": {"engine", "fairness"},
    "export": {"engine", "masks"},
    "torch_pruning": {"engine", "fairness", "masks"},
    "nni": {"torch_pruning", "engine", "fairness", "masks"},  # the dependency graph of channels is Torch-Pruning's
    "trainers": {"engine", "fairness"},
    "cli": {"audit", "fairness"},
}
# The same among a folder's own folders; "" is what lies beside them.
INSIDE: dict[str, dict[str, set[str]]] = {
    "engine": {
        "": set(),  # the alternation itself
        "loaders": {""},
        "measure": {"", "loaders"},
        "results": {""},
        "storage": set(),
        "run": {"", "loaders", "measure", "results", "storage"},
    },
    "torch_pruning": {
        "": {"channels", "size", "removal", "trial", "state"},  # the pruner is made of all of them
        "channels": {""},  # arguments.py
        "size": {"channels"},
        "removal": {"channels"},
        "trial": {"channels", "removal"},
        "state": {"channels", "removal"},
    },
}
HOSTS = {"torch_pruning", "nni"}
# Modules beside the folders that put something together; all others are for everybody and import no folder.
ON_TOP = {"__init__", "build", "schedules"}
FOR_HOSTS = {"config"}


def imported(path: Path) -> Iterator[str]:
    """Folders, and modules beside them, that a file imports from this package, also inside its functions."""
    yield from (name[0] for name in imported_paths(path))


def imported_paths(path: Path) -> Iterator[tuple[str, ...]]:
    """What :func:`imported` has the first part of."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((*base, *name.split(".")) for name in names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (tuple(name.split(".")[1:]) for name in names if name.startswith("fairprune_plugin."))


def test_every_folder_has_its_place() -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and list(path.glob("*.py"))} == set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_what_is_below_it(folder: str) -> None:
    found = {name for path in (ROOT / folder).rglob("*.py") for name in imported(path)}
    assert found & set(MAY_IMPORT) <= MAY_IMPORT[folder] | {folder}
    assert not found & (ON_TOP if folder in HOSTS else ON_TOP | FOR_HOSTS)


@pytest.mark.parametrize(("whole", "folder"), [(whole, folder) for whole in INSIDE for folder in INSIDE[whole]])
def test_a_folder_inside_of_one_imports_what_is_below_it(whole: str, folder: str) -> None:
    folders = {path.name for path in (ROOT / whole).iterdir() if list(path.glob("*.py"))}
    assert folders | {""} == set(INSIDE[whole])
    found = {
        name[1] if name[1] in folders else ""
        for path in (ROOT / whole / folder).glob("*.py")
        for name in imported_paths(path)
        if name[0] == whole
    }
    assert found <= INSIDE[whole][folder] | {folder}


def test_what_everybody_imports_imports_no_folder() -> None:
    for path in ROOT.glob("*.py"):
        if path.stem not in ON_TOP | FOR_HOSTS:
            assert not set(imported(path)) & set(MAY_IMPORT), path.name
