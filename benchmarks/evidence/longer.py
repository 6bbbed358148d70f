"""Accuracy and gap with eight times the passes of :mod:`.sparsity`: who is ahead when nobody is short of training.

    python -m evidence.longer --faces FOLDER --page ../docs/results/longer.md      # in benchmarks/

The other pages give every method few passes, which is where methods differ. Here all get as many as the two-stage
baselines of :mod:`.cost` have at most, with learning rates of their own (``search --passes 480``).
"""

from __future__ import annotations

from collections.abc import Sequence

from .command import comparison, parser
from .comparison_page import Page, write
from .methods import METHODS
from .records import collect

PASSES = 480
RATIOS = (0.9,)
COMPARED = (
    "dense",
    "bifp",
    "random",
    "magnitude",
    "lamp",
    "snip",
    "fairprune",
    "ceag",
    "prune-then-fair",
    "magnitude + constraint",
    "lamp + constraint",
    "snip + constraint",
    "torch-pruning lamp",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "longer", settings=("smiling",), methods=COMPARED)
    commands.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    commands.set_defaults(passes=PASSES)
    args = commands.parse_args(argv)
    rows = collect(args, comparison(args), METHODS)
    if args.page is not None:
        write(args.page, rows, PAGE)


INTRODUCTION = """\
Made by `python -m evidence.longer` in `benchmarks/`; columns as in [sparsity.md](sparsity.md), where every method has 60
forward-backward passes. Here it has eight times as many (2.5 epochs of CelebA, 6 of FairFace), with learning rates that were
searched for at this length, for CelebA on Smiling and for FairFace by race.
"""
PAGE = Page("Accuracy and gap after longer training", INTRODUCTION, ratios=RATIOS)


if __name__ == "__main__":
    main()
