"""What the commands of all figures have in common: arguments, learning rates, and where files go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .methods import METHODS, applies
from .problems import SETTINGS, Setting, on_network, tolerance_factor
from .records import Job
from .tuning import Budget

RATES = Path(__file__).parent / "learning_rates.json"
WEIGHT_RATES = Path(__file__).parent / "learning_rates_weights.json"  # of the methods on single weights
MACS_RATES = Path(__file__).parent / "learning_rates_macs.json"  # at equal MACs
RECORDS = Path(__file__).parent / "records"  # numbers only: no image, no row of anybody's data
DEFAULT_RATE = {"resnet10": 0.05, "mobilenetv2": 0.05, "vit": 1e-3, "mlp": 0.02}
# Short on purpose: with enough of them, random channels come close to any others and nothing can be told apart.
PASSES = {"resnet10": 60, "mobilenetv2": 60, "vit": 60, "mlp": 60}


def parser(
    doc: str,
    figure: str,
    *,
    settings: Sequence[str],
    methods: Sequence[str],
    known: Iterable[str] = METHODS,
) -> argparse.ArgumentParser:
    """The common arguments.

    Args:
        doc: The module's docstring.
        figure: Name of the raw file and of the page.
        settings: Default settings.
        methods: Default methods.
        known: All methods there are.
    """
    out = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--faces", type=Path, help="folder that holds celeba/, fairface/ or lfw/")
    out.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(settings))
    out.add_argument("--network", nargs=2, metavar=("NAME", "WIDTH"), help="another network for all settings")
    out.add_argument(
        "--factors", nargs="+", type=float, default=[1.0], help="tolerances, in units of the settings' own"
    )
    names = tuple(known)
    named = f"of {', '.join(names)}"
    out.add_argument("--methods", nargs="+", choices=names, metavar="METHOD", default=list(methods), help=named)
    out.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12, 13, 14])
    out.add_argument("--passes", type=int, help="forward-backward passes after the dense training")
    out.add_argument("--raw", type=Path, default=RECORDS / f"{figure}.jsonl", help="records, appended to")
    out.add_argument("--dense", type=Path, default=Path("../out/evidence/dense"), help="where dense models are kept")
    out.add_argument("--page", type=Path, help=f"Markdown page to write, for example ../docs/results/{figure}.md")
    out.add_argument("--only-page", action="store_true", help="make the page from the records there are; run nothing")
    return out


def chosen(args: argparse.Namespace) -> list[Setting]:
    """The settings asked for, each with every tolerance."""
    torch.set_num_threads(1)
    settings = [SETTINGS[name] for name in args.settings]
    if args.network:
        settings = [on_network(setting, args.network[0], float(args.network[1])) for setting in settings]
    return [replace(setting, tolerance=setting.tolerance * factor) for setting in settings for factor in args.factors]


def budget(setting: Setting, method: str, ratio: float, passes: int | None, target: str = "params") -> Budget:
    """Budget of a run, with the learning rate that ``search`` found for this method with as many passes on such data (or
    else with the usual number, on such data with such a tolerance, or else with the usual one, or else on CelebA), or the
    network's usual rate."""
    path = rates_of(target)
    rates = json.loads(path.read_text()) if path.exists() else {}
    usual = replace(setting, tolerance=setting.tolerance / tolerance_factor(setting))
    searched: dict[str, float] = {}
    for key in (setting.network, rates_key(usual), rates_key(setting), rates_key(setting, passes)):
        searched |= rates.get(key, {})
    rate = searched.get(method, DEFAULT_RATE[setting.network])
    return Budget(ratio, passes or PASSES[setting.network], rate, target)


def comparison(args: argparse.Namespace, target: str = "params") -> list[Job]:
    """Every method at every ratio, with one kind of budget for all."""
    settings = chosen(args)
    return [
        Job(setting, method, budget(setting, method, 0.0 if method == "dense" else ratio, args.passes, target), seed)
        for seed in args.seeds  # the outer loop, so that an interrupted benchmark is balanced
        for setting in settings
        for ratio in args.ratios
        for method in args.methods
        if applies(method, setting)
    ]


def rates_key(setting: Setting, passes: int | None = None) -> str:
    """Under which learning rates are kept: one search for each network on each data set, with each tolerance and with each
    number of passes (``None``: the usual one)."""
    key = setting.network if setting.data == "celeba" else f"{setting.network} on {setting.data}"
    factor = tolerance_factor(setting)
    if factor != 1:
        key = f"{key}, tolerance × {factor:g}"
    return key if passes in (None, PASSES[setting.network]) else f"{key}, {passes} passes"


def rates_of(target: str) -> Path:
    """The file of learning rates for a budget's target."""
    return {"weights": WEIGHT_RATES, "macs": MACS_RATES}.get(target, RATES)
