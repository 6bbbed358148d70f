"""Accuracy and gap against the share of single weights removed (the unstructured half of Figs. 3 and 4 of the paper).

    python -m evidence.unstructured --faces FOLDER --page ../docs/results/unstructured.md      # in benchmarks/

As :mod:`.sparsity`, with single weights in place of channels: every method starts from the same dense model, removes the
same number of weights, and has the same number of forward-backward passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from .command import comparison, parser
from .comparison_page import Page, write
from .records import collect
from .weight_methods import WEIGHT_METHODS

RATIOS = (0.7, 0.9, 0.95, 0.98)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    known = tuple(WEIGHT_METHODS)
    commands = parser(__doc__, "unstructured", settings=("smiling",), methods=known, known=known)
    commands.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    args = commands.parse_args(argv)
    rows = collect(args, comparison(args, "weights"), WEIGHT_METHODS)
    if args.page is not None:
        write(args.page, rows, PAGE)


INTRODUCTION = """\
Made by `python -m evidence.unstructured` in `benchmarks/`; columns as in [sparsity.md](sparsity.md). Single weights of
convolutions and linear layers are set to zero, those of the output layer stay; *weights left* counts what is not zero among
them. The size of the tensors and the time of a pass stay as they are.

BiFP here is `fairprune_plugin.nni.BiFPPruner` with one unit per weight. *Magnitude* is NNI's `LevelPruner`, *taylor* its
`TaylorPruner`, *gradual magnitude* its `AGPPruner` around a `LevelPruner`, which raises the ratio as long as BiFP does and
then tunes a fixed mask; all four share one budget over all layers (a `global_group_id`), and so do the other methods, except
*magnitude uniform* (the same ratio in every layer) and *fairgrape* (layer by layer, as its paper has it).
"""
PAGE = Page(
    "Single weights: accuracy and gap against sparsity",
    INTRODUCTION,
    "weights",
    {"weights left": "weights"},
    ratios=RATIOS,
)


if __name__ == "__main__":
    main()
