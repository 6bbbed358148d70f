"""Entry point of the command ``fairprune``: which subcommand, and what its exit code means."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

from ..errors import FairPruneError, FairPruneWarning
from . import audit_command
from .exit_codes import USAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see :mod:`.exit_codes`); mistakes are said on one line."""
    parser = argparse.ArgumentParser(prog="fairprune", description="Fairness-constrained pruning: tools for the shell.")
    commands = parser.add_subparsers(dest="command", required=True)
    audit_command.add_to(commands)
    arguments = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a verdict is worth more than a sign that a terminal does not have
    with _plain_warnings():
        try:
            return int(arguments.run(arguments))
        except (FairPruneError, OSError) as error:
            print(f"fairprune {arguments.command}: error: {error}", file=sys.stderr)
            return USAGE
        except Exception:
            # Python's own exit code for a crash is that of a violated constraint.
            traceback.print_exc()
            return USAGE


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """This package's warnings as lines on stderr, without the place in the code they come from."""
    show = warnings.showwarning

    def plain(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, FairPruneWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FairPruneWarning)
        warnings.showwarning = plain
        yield
