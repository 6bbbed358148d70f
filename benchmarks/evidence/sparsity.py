"""Accuracy and gap against sparsity, for every method (Figs. 3 and 4 of the paper).

    python -m evidence.sparsity --faces FOLDER --page ../docs/results/sparsity.md      # in benchmarks/

Every method starts from the same dense model, removes the same share of the parameters, and has the same number of
forward-backward passes. Test rates are those of the moment that validation chose.
"""

from __future__ import annotations

from collections.abc import Sequence

from .command import comparison, parser
from .comparison_page import Page, write
from .methods import METHODS
from .records import collect

RATIOS = (0.2, 0.5, 0.7, 0.9, 0.95)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    commands = parser(__doc__, "sparsity", settings=("smiling",), methods=tuple(METHODS))
    commands.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    args = commands.parse_args(argv)
    rows = collect(args, comparison(args), METHODS)
    if args.page is not None:
        write(args.page, rows, PAGE)


INTRODUCTION = """\
Made by `python -m evidence.sparsity` in `benchmarks/`. Means over seeds with 95 % intervals (Student's t). Paired
differences are BiFP minus the method, by seed; a star marks an interval without zero, p is of the exact sign-flip
permutation test (with five seeds it cannot fall below 0.0625). *Excess* is the test gap above the tolerance: within it,
nothing more was asked for. BiFP *is* ahead of a method if it is better (starred) in one of the two and not worse in the
other, behind the other way round; "trades" means better in one and worse in the other. *Within* counts the seeds whose test
gap is at most the tolerance plus the half width of its own 95 % interval. *Passes* are forward-backward passes after the
dense training; forward passes on held-out data, for the choice of the moment (all methods) and for the multipliers
(constrained ones), are not among them. *Seconds* are wall time, on a machine that other runs shared. DEGENERATE counts seeds
that end with one class for everybody.

*Random*, *magnitude*, *group_norm*, *taylor*, *fpgm*, *lamp*, *snip*, *fairgrape* and *fairprune* are scores of the dense
model under this package's own budget: one of parameters over all layers, units ranked by score per root of their cost.
*Magnitude uniform* takes the same share of every layer. *Torch-pruning …* is that host's own pruner with one global ranking
of channels (*isomorphic*: Taylor's score, one ranking for each kind of layer group), *nni …* the other host's with one ratio
for all layers.
"""
PAGE = Page("Accuracy and gap against sparsity", INTRODUCTION, ratios=RATIOS)


if __name__ == "__main__":
    main()
