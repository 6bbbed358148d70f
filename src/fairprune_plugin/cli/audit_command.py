"""``fairprune audit``: its arguments, and what happens with them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..audit import FairnessAudit, audit, audit_predictions
from ..errors import ConfigError
from . import exit_codes
from .constraint_texts import parse_constraint, parse_groups
from .data_files import Columns, Predictions, load_data
from .models import load_model

EXITS = {"met": exit_codes.MET, "violated": exit_codes.VIOLATED, "not decidable": exit_codes.UNDECIDABLE}
DESCRIPTION = """\
Judge a model, or predictions that are already in a file, against fairness constraints.

  fairprune audit --model my_package.models:build --weights pruned.safetensors --data my_package.data:test_loader \\
                  --constraint equal_opportunity:0.02 --html audit.html
  fairprune audit --data predictions.csv --label y --sensitive gender --logits logit \\
                  --constraint accuracy_parity:0.03
"""
EPILOG = """\
exit codes: 0 every constraint is met; 1 at least one is violated; 2 wrong arguments, files or data;
            3 none is violated, at least one is not decidable at this sample size"""


def add_to(commands: Any) -> None:
    """Adds the subcommand to a parser's subcommands."""
    parser = commands.add_parser(
        "audit",
        help="judge a model against fairness constraints",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_models(parser.add_argument_group("models"))
    _add_data(parser.add_argument_group("data"))
    _add_judgement(parser.add_argument_group("judgement"))
    outputs = parser.add_argument_group("outputs (Markdown on the screen without any)")
    for name, what in (
        ("html", "self-contained page"),
        ("json", "everything as JSON"),
        ("markdown", "report as Markdown"),
        ("model-card", "Hugging Face model card"),
    ):
        outputs.add_argument(f"--{name}", metavar="FILE", help=what)
    outputs.add_argument("--dataset-name", default="", help="of the model card")
    outputs.add_argument("--task-type", default="other", help="of the model card, such as image-classification")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Audits, writes what was asked for, and returns the exit code.

    Raises:
        FairPruneError: For anything that cannot be used; the message says what and why.
        OSError: For files that cannot be read or written.
    """
    report = _audit(arguments)
    for form in ("html", "json", "markdown"):
        path = getattr(arguments, form)
        if path:
            getattr(report, f"to_{form}")(path)
    if arguments.model_card:
        report.to_model_card(arguments.model_card, task_type=arguments.task_type, dataset_name=arguments.dataset_name)
    if not any((arguments.html, arguments.json, arguments.markdown, arguments.model_card)):
        print(report.to_markdown())
    for verdict in report.verdicts:
        print(f"{verdict.constraint}: {verdict.status} (gap {verdict.gap:.4f}, tolerance {verdict.tolerance:g})")
    return EXITS[report.status]


def _audit(arguments: argparse.Namespace) -> FairnessAudit:
    groups = parse_groups(arguments.groups)
    constraints = [parse_constraint(text, groups) for text in arguments.constraint]
    options: dict[str, Any] = {
        "split": arguments.split,
        "reference_name": arguments.reference_name,
        "class_names": arguments.class_names.split(",") if arguments.class_names else (),
        "scores": arguments.scores,
        "bins": arguments.bins,
        "bootstrap": arguments.bootstrap,
        "seed": arguments.seed,
        "history": _histories(arguments.history),
    }
    columns = Columns(
        label=arguments.label,
        sensitive=tuple(arguments.sensitive.split(",")),
        features=tuple(arguments.features.split(",")) if arguments.features else (),
        logits=tuple(arguments.logits.split(",")) if arguments.logits else (),
        reference=tuple(arguments.reference_logits.split(",")) if arguments.reference_logits else (),
    )
    data = load_data(arguments.data, columns, has_model=bool(arguments.model), batch_size=arguments.batch_size)
    name = arguments.model_name or Path(arguments.model or arguments.data).name
    if isinstance(data, Predictions):
        _refuse_model_options(arguments)
        return audit_predictions(
            data.logits, data.targets, data.sensitive, constraints, data.reference, model_name=name, **options
        )
    loading = {"allow_pickle": arguments.allow_pickle, "device": arguments.device}
    model = load_model(arguments.model, arguments.weights, **loading)
    reference = None
    if arguments.reference_model:
        reference = load_model(arguments.reference_model, arguments.reference_weights, **loading)
    elif arguments.reference_weights:
        reference = load_model(arguments.model, arguments.reference_weights, **loading)
    return audit(model, data, constraints, reference, model_name=name, **options)


def _refuse_model_options(arguments: argparse.Namespace) -> None:
    named = [name for name in ("weights", "reference_model", "reference_weights") if getattr(arguments, name)]
    if named:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        raise ConfigError(
            f"{options} is for models, but without --model the predictions come from {arguments.data}: pass --model, or for "
            "a reference --reference-logits with its columns there"
        )


def _histories(paths: list[str]) -> dict[str, Any] | None:
    found = {}
    stems = [Path(path).stem for path in paths]
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else str(Path(path).with_suffix(""))
        try:
            found[name] = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(
                f"expected --history {path} as the JSON of a FitResult (result.to_json()): {error}"
            ) from error
    return found or None


def _add_models(group: Any) -> None:
    group.add_argument(
        "--model",
        metavar="MODULE:CALLABLE",
        help="a callable that builds the model (the working directory is on the path); or a file with a whole module "
        "(torch.save, .pt2), only with --allow-pickle. Without: the data hold the predictions",
    )
    group.add_argument("--weights", metavar="FILE", help="state dict: .safetensors, or torch.save (read weights_only)")
    group.add_argument("--reference-model", metavar="MODULE:CALLABLE", help="the dense model")
    group.add_argument(
        "--reference-weights", metavar="FILE", help="its weights; without --reference-model it is built like --model"
    )
    group.add_argument("--allow-pickle", action="store_true", help="unpickle whole modules: runs code from the file")
    group.add_argument("--device", default="cpu", help="default: cpu")
    group.add_argument("--model-name", default="", help="in the report; default from --model or --data")
    group.add_argument("--reference-name", default="dense model", help="in the report")


def _add_data(group: Any) -> None:
    group.add_argument(
        "--data",
        required=True,
        metavar="WHAT",
        help="MODULE:CALLABLE that returns a loader of (x, y, s); or a .csv or .npz file",
    )
    group.add_argument("--label", default="label", help="column of the true class (default: label)")
    group.add_argument(
        "--sensitive", default="sensitive", help="column of the sensitive attribute; several with commas: intersections"
    )
    group.add_argument("--features", default="", help="columns for the model; default all others (.npz: 'features')")
    group.add_argument(
        "--logits", default="", help="without --model: the columns of the scores, one (of class 1) or one per class"
    )
    group.add_argument("--reference-logits", default="", help="the same of the dense model")
    group.add_argument("--batch-size", type=int, default=256, help="for files (default: 256)")
    group.add_argument("--split", default="test", help="name of the split in the report")


def _add_judgement(group: Any) -> None:
    group.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="NAME:TOLERANCE[,KEY=VALUE…]",
        help="for example equal_opportunity:0.02 or demographic_parity:0.05,reference=overall; repeat for several",
    )
    group.add_argument(
        "--groups",
        action="append",
        default=[],
        metavar="[ATTRIBUTE=]A,B,…",
        help="names of the groups; default: discovered. Repeat for several attributes",
    )
    group.add_argument("--scores", choices=("logits", "probabilities"), default="logits", help="what the outputs are")
    group.add_argument("--class-names", default="", help="with commas")
    group.add_argument("--bootstrap", type=int, default=1000, help="replicates (default: 1000)")
    group.add_argument("--bins", type=int, default=15, help="of the calibration error (default: 15)")
    group.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    group.add_argument("--history", action="append", default=[], metavar="FILE", help="JSON of a FitResult; repeat")
