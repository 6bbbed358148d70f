"""Accuracy and gap against the share of MACs removed: as :mod:`.sparsity`, at equal MACs in place of equal parameters.

    python -m evidence.macs --faces FOLDER --page ../docs/results/macs.md      # in benchmarks/

At equal parameters, methods differ in the multiply-accumulate operations they leave, and so in latency. Here every method
removes the same share of those, with learning rates of their own (``search --macs``).
"""

from __future__ import annotations

from collections.abc import Sequence

from .command import comparison, parser
from .comparison_page import Page, write
from .methods import METHODS, TORCH_PRUNING
from .records import collect

RATIOS = (0.7, 0.9)
COMPARED = (
    "bifp",
    "random",
    "magnitude",
    "taylor",
    "lamp",
    "snip",
    "fairprune",
    "ceag",
    "prune-then-fair",
    "fair-then-prune",
)
CONSTRAINED = ("magnitude + constraint", "lamp + constraint", "snip + constraint", "fairprune + constraint")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    methods = ("dense", *COMPARED, *CONSTRAINED, *TORCH_PRUNING)
    known = tuple(name for name in METHODS if not name.startswith(("nni ", "lottery")))  # those cut parameters or rows
    commands = parser(__doc__, "macs", settings=("smiling",), methods=methods, known=known)
    commands.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    args = commands.parse_args(argv)
    rows = collect(args, comparison(args, "macs"), METHODS)
    if args.page is not None:
        write(args.page, rows, PAGE)


INTRODUCTION = """\
Made by `python -m evidence.macs` in `benchmarks/`; columns as in [sparsity.md](sparsity.md). Here every method removes the
same share of the MACs of a forward pass (multiply-accumulate operations, by Torch-Pruning's counter): this package with
`target="macs"`, where units are ranked by score per root of the MACs they cost, and so are the scores that stand under its
budget; for *torch-pruning …* the host's ratio of channels that comes nearest. Learning rates have searches of their own, on
Smiling (for CelebA) and by race (for FairFace), each at 90 % of the MACs.
"""
PAGE = Page("Accuracy and gap at equal MACs", INTRODUCTION, "MACs", ratios=RATIOS)


if __name__ == "__main__":
    main()
