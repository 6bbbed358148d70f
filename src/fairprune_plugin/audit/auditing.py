"""The front door: a model, or predictions that are already there, against constraints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..checks import whole_number
from ..engine.loaders.batches import Forward, default_forward
from ..errors import ConfigError, DataError
from ..fairness.constraint import Constraint
from ..fairness.constraints import constraints_of, with_floors
from ..fairness.groups import Groups
from ..fairness.outputs import Outputs
from ..warn import warn_caller
from .collect import Predictions, collect, constant
from .compared import ComparedRate, compared_rates, named_apart
from .decide import judge
from .history import runs_of
from .levelling import levelling_down
from .measures import EVERYONE, Measure, measure
from .membership import Membership, assign
from .quantities import quantities
from .report import FairnessAudit, GroupingReport, Settings
from .scores import LOGITS

Constraints = Constraint | Sequence[Constraint] | None


def audit(
    model: nn.Module,
    loader: Iterable[Any],
    constraints: Constraints = None,
    reference_model: nn.Module | None = None,
    *,
    split: str = "test",
    forward: Forward = default_forward,
    model_name: str = "model",
    reference_name: str = "dense model",
    class_names: Sequence[str] = (),
    scores: str = LOGITS,
    bins: int = 15,
    bootstrap: int = 1000,
    seed: int = 0,
    history: Any = None,
) -> FairnessAudit:
    """Judges a model on a split: per-group quantities with intervals, and a verdict per constraint.

    Args:
        model: To be judged, in eval mode, where it is; restored afterwards.
        loader: Batches ``(x, y, s)`` or mappings; walked once, so that a generator will do.
        constraints: One, several or none. Groups left to the data (``groups=None``) are discovered; without any
            constraint so are the groups of the report.
        reference_model: The dense model. Adds every group's paired change. Degradation parity needs it;
            a ``floor`` without it is not decidable, with a warning.
        split: Name of the split.
        forward: ``(model, x) → logits``, for both models.
        model_name: Shown in the report.
        reference_name: Shown in the report.
        class_names: Of the classes, or of the labels of a multi-label task.
        scores: ``"probabilities"`` if the models return those instead of logits.
        bins: Of the calibration error.
        bootstrap: Replicates, at least 100.
        seed: Of the bootstrap; the same seed gives the same report.
        history: The :class:`~..engine.results.result.FitResult` that led to the model, several, or a mapping from names
            to them: adds pictures of the runs.

    Raises:
        ConfigError: For unusable arguments.
        DataError: For a loader, or model outputs, that cannot be read; the message says what is missing.
    """
    given = _checked(constraints, reference_model is not None, bootstrap, bins, seed)
    runs = runs_of(history)
    predictions = collect(model, loader, reference_model, split=split, forward=forward, scores=scores)
    return _audit(
        predictions, given, split, model_name, reference_name, class_names, Settings(bootstrap, seed, bins), runs
    )


def audit_predictions(
    logits: Tensor,
    targets: Tensor,
    sensitive: Any,
    constraints: Constraints = None,
    reference_logits: Tensor | None = None,
    *,
    split: str = "test",
    model_name: str = "model",
    reference_name: str = "dense model",
    class_names: Sequence[str] = (),
    scores: str = LOGITS,
    bins: int = 15,
    bootstrap: int = 1000,
    seed: int = 0,
    history: Any = None,
) -> FairnessAudit:
    """The same for predictions that are already there.

    Args:
        logits: ``(N,)``, ``(N, 1)``, ``(N, C)``, or ``(N, L)`` of labels.
        targets: ``(N,)`` class ids, or ``(N, L)``.
        sensitive: ``(N,)`` or ``(N, A)`` group ids, a list of names, or a mapping of such.
        constraints: As in :func:`audit`, like all further arguments.
        reference_logits: Of the reference model on the same samples.
        split: Name of the split.
        model_name: Shown in the report.
        reference_name: Shown in the report.
        class_names: Of the classes, or of the labels.
        scores: ``"logits"`` or ``"probabilities"``.
        bins: Of the calibration error.
        bootstrap: Replicates.
        seed: Of the bootstrap.
        history: Of training.

    Raises:
        ConfigError: For unusable arguments.
        DataError: For predictions that do not fit together.
    """
    given = _checked(constraints, reference_logits is not None, bootstrap, bins, seed)
    runs = runs_of(history)
    for name, values in (("logits", logits), ("targets", targets)):
        if not isinstance(values, Tensor):
            raise DataError(f"expected {name} as a tensor, got {type(values).__name__}: use torch.as_tensor")
    if len(logits) == 0:
        raise DataError("expected at least one prediction, got none")
    if sensitive is None:
        raise DataError("expected the sensitive attribute of each sample, got None")
    if reference_logits is not None and len(reference_logits) != len(logits):
        raise DataError(
            f"expected reference logits for the same {len(logits)} samples, got {len(reference_logits)}: the comparison is "
            "a paired one"
        )
    reference = [] if reference_logits is None else [reference_logits.detach().cpu()]
    predictions = Predictions.of([logits.detach().cpu()], reference, [targets.cpu()], [sensitive], scores=scores)
    return _audit(
        predictions, given, split, model_name, reference_name, class_names, Settings(bootstrap, seed, bins), runs
    )


def _audit(
    predictions: Predictions,
    constraints: tuple[Constraint, ...],
    split: str,
    model_name: str,
    reference_name: str,
    class_names: Sequence[str],
    settings: Settings,
    runs: Any,
) -> FairnessAudit:
    outputs, reference = predictions.outputs, predictions.reference
    wanted = outputs.num_labels or outputs.num_classes
    if class_names and len(class_names) != wanted:
        raise ConfigError(f"expected {wanted} class names for {outputs.task}, got {len(class_names)}")
    constraints, memberships = assign(constraints, predictions.sensitive, predictions.sizes)
    groupings = {}
    for groups, member in memberships.items():
        compared = [item for c in constraints if c.group_spec == groups for item in compared_rates(c, outputs.task)]
        groupings[groups] = _grouping(member, outputs, reference, compared, settings)
    verdicts, flags = [], []
    for constraint in constraints:
        groups = constraint.group_spec
        verdict = judge(
            constraint, memberships[groups], outputs, reference, replicates=settings.bootstrap, seed=settings.seed
        )
        verdicts.append(verdict)
        if reference is not None and not constraint.relative_to_dense:
            flags += levelling_down(verdict, [m for m in groupings[groups].measures if m.group in groups.names])
    return FairnessAudit(
        split=split,
        samples=len(outputs.targets),
        task=str(outputs.task),
        model_name=model_name,
        reference_name="" if reference is None else reference_name,
        class_names=tuple(map(str, class_names)),
        verdicts=tuple(verdicts),
        groupings=tuple(groupings.values()),
        levelling_down=tuple(flags),
        warnings=(*predictions.notes, *_degenerate(outputs), *_skips(memberships)),
        runs=runs,
        settings=settings,
    )


def _grouping(
    member: Membership, outputs: Outputs, reference: Outputs | None, compared: list[ComparedRate], settings: Settings
) -> GroupingReport:
    own = quantities(outputs, settings.bins, compared)
    before = None if reference is None else quantities(reference, settings.bins, compared)
    rng = np.random.default_rng(settings.seed)
    names = member.groups.names
    rows = {name: (member.ids == group).numpy() for group, name in enumerate(names)}
    rows[EVERYONE if EVERYONE not in rows else f"{EVERYONE} "] = np.ones(len(member.ids), dtype=bool)
    found: list[Measure] = []
    for name, mask in rows.items():
        found += measure(own, before, mask.astype(np.float64), name, replicates=settings.bootstrap, rng=rng)
    return GroupingReport(
        attribute=member.groups.label,
        groups=names,
        sizes=tuple(int(rows[name].sum()) for name in names),
        missing=member.missing,
        unknown=dict(member.unknown),
        measures=tuple(found),
    )


def _checked(
    constraints: Constraints, has_reference: bool, bootstrap: int, bins: int, seed: int
) -> tuple[Constraint, ...]:
    given = constraints_of(constraints)
    for constraint in given:
        if constraint.relative_to_dense and not has_reference:
            raise ConfigError(
                f"{constraint.name} compares with the dense model: pass it as reference_model (its predictions as "
                "reference_logits)"
            )
    for name, value, least in (("bootstrap", bootstrap, 100), ("bins", bins, 2), ("seed", seed, 0)):
        whole_number(name, value, least)
    if not has_reference:
        _warn_of_floors(given)
    return with_floors(named_apart(given))


def _warn_of_floors(constraints: tuple[Constraint, ...]) -> None:
    asked = [f"floor={c.floor:g} of {c.name}" for c in constraints if c.floor is not None]
    if asked:
        warn_caller(
            f"{', '.join(asked)} compares with the dense model, and there is none: not decidable. Pass the dense model as "
            "reference_model (its predictions as reference_logits), or leave floor out"
        )


def _degenerate(outputs: Outputs) -> list[str]:
    predicted = outputs.predicted()
    if len(predicted) < 2:
        return []
    return [f"every prediction{which}: equal rates of the most useless kind" for which in constant(predicted)]


def _skips(memberships: dict[Groups, Membership]) -> list[str]:
    """What was left out of the groups, in words; also a warning for who does not read the report."""
    notes = []
    for groups, member in memberships.items():
        about = f" of {groups.label}" if groups.label else ""
        if member.missing:
            notes.append(f"{member.missing} samples have no value{about} (NaN): in no group")
        if member.unknown:
            values = ", ".join(f"{value} ({count})" for value, count in list(member.unknown.items())[:8])
            more = ", …" if len(member.unknown) > 8 else ""
            notes.append(
                f"{sum(member.unknown.values())} samples have a value{about} that the constraint never saw: {values}{more}: "
                "in no group"
            )
        empty = [name for group, name in enumerate(groups.names) if not bool((member.ids == group).any())]
        if empty:
            notes.append(f"no sample of {', '.join(empty)}{about}")
    for note in notes:
        warn_caller(note)
    return notes
