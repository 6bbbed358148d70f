"""One pass over a loader: what the model, and the reference model beside it, said about every sample, on the CPU."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.loaders.batches import Forward, missing_sensitive, read_batch
from ..engine.measure.evaluate import mode
from ..errors import DataError
from ..fairness.arrays import is_numeric, tensor_of
from ..fairness.one_hot import one_hot_notes
from ..fairness.outputs import Outputs
from ..warn import warn_caller
from .scores import as_logits


@dataclass(frozen=True)
class Predictions:
    """Everything an audit looks at.

    Attributes:
        outputs: Of the audited model, all ``N`` samples, float64 on the CPU.
        reference: Of the reference model on the same samples, if there is one.
        sensitive: The sensitive attributes, batch by batch, as the loader gave them.
        sizes: Samples of each batch; they sum to ``N``.
        notes: What a reader of the audit should know about the data.
    """

    outputs: Outputs
    reference: Outputs | None
    sensitive: tuple[Any, ...]
    sizes: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        logits: list[Tensor],
        reference: list[Tensor],
        targets: list[Tensor],
        sensitive: list[Any],
        *,
        scores: str,
        reference_name: str = "the reference model",
    ) -> Predictions:
        """From the batches' logits, targets and sensitive attributes (``reference`` may be empty).

        Raises:
            DataError: For shapes that do not fit, logits that are not finite, or a reference that predicts something else.
        """
        ready, notes = as_logits(logits, scores, "the model", targets)
        outputs = _joined(ready, targets, "the model")
        second = None
        if reference:
            ready, more = as_logits(reference, scores, reference_name, targets)
            second = _joined(ready, targets, reference_name)
            notes = [*notes, *more]
            if second.task != outputs.task:
                raise DataError(
                    f"expected a reference model with the outputs of the audited one, {outputs.task}, got {second.task}: "
                    "both must predict the same task"
                )
        conditions = "rates that condition on another class are undefined"
        alike = [f"every label{which}: {conditions}" for which in constant(outputs.targets)]
        notes = [*notes, *alike, *_one_hot(outputs)]
        sizes = tuple(len(batch) for batch in targets)
        return cls(outputs, second, tuple(map(on_cpu, sensitive)), sizes, tuple(notes))


def collect(
    model: nn.Module,
    loader: Iterable[Any],
    reference_model: nn.Module | None,
    *,
    split: str,
    forward: Forward,
    scores: str,
) -> Predictions:
    """Runs both models over the loader in one pass (so that a generator will do), in eval mode without gradients.

    Raises:
        DataError: If the loader yields no batch, or batches that cannot be read; the missing field is named.
    """
    for name, candidate in (("model", model), ("reference_model", reference_model)):
        if candidate is not None and not isinstance(candidate, nn.Module):
            raise DataError(
                f"expected {name} as a torch.nn.Module, got {type(candidate).__name__}: for predictions that you already "
                "have use audit_predictions(logits, targets, sensitive, constraint)"
            )
    models = [model] if reference_model is None else [model, reference_model]
    logits: list[list[Tensor]] = [[] for _ in models]
    targets: list[Tensor] = []
    sensitive: list[Any] = []
    empty = 0
    with ExitStack() as modes, torch.no_grad():
        for each in models:
            modes.enter_context(mode(each, training=False))
        for raw in _iterate(loader, split):
            for place, each in enumerate(models):
                batch = read_batch(raw, _on_device(each))
                if batch.sensitive is None:
                    raise missing_sensitive(raw, split)
                if _is_empty(batch.targets):
                    break
                out = _of_reference(each, batch.inputs, forward) if place else forward(each, batch.inputs)
                if not isinstance(out, Tensor):
                    raise DataError(
                        f"expected the {'reference ' * place}model to return a tensor (or an object with .logits), got "
                        f"{type(out).__name__}: pass forward=lambda model, x: …"
                    )
                logits[place].append(out.detach().cpu().clone())
            if _is_empty(batch.targets):
                empty += 1
                continue
            if not isinstance(batch.targets, Tensor):
                raise DataError(
                    f"expected targets as a tensor, got {type(batch.targets).__name__}: let the loader give "
                    "torch.as_tensor(y)"
                )
            # Copies: a loader may fill the same memory with its next batch.
            targets.append(batch.targets.cpu().clone())
            sensitive.append(copy.deepcopy(batch.sensitive))
    if not targets:
        raise DataError(f"the {split} loader is empty: no {'sample' if empty else 'batch'} to audit")
    found = Predictions.of(logits[0], logits[-1] if len(models) > 1 else [], targets, sensitive, scores=scores)
    if not empty:
        return found
    skipped = f"{empty} batch{'es' if empty > 1 else ''} of the {split} loader without a sample: skipped"
    return dataclasses.replace(found, notes=(*found.notes, skipped))


def _is_empty(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.dim() > 0 and len(targets) == 0


def _of_reference(model: nn.Module, inputs: Any, forward: Forward) -> Any:
    """The reference model's outputs; who passes two models wants to know which one failed."""
    try:
        return forward(model, inputs)
    except Exception as error:
        raise DataError(
            f"the reference model failed on inputs that the audited model took: {type(error).__name__}: {error}. Both "
            "models must take the same batches"
        ) from error


def constant(ids: Tensor) -> list[str]:
    """What is always the same class, in words: ``" is class 1"``; of ``(N, L)`` ids ``" of labels 0, 3 is class 0"``."""
    if ids.dim() == 1:
        present = torch.unique(ids)
        return [f" is class {int(present)}"] if len(present) == 1 else []
    found = []
    for cls in (0, 1):
        labels = (ids == cls).all(dim=0).nonzero().reshape(-1).tolist()
        if labels:
            found.append(f" of label{'s'[: len(labels) > 1]} {', '.join(map(str, labels))} is class {cls}")
    return found


def _one_hot(outputs: Outputs) -> list[str]:
    notes = one_hot_notes(outputs)
    for note in notes:
        warn_caller(note)
    return notes


def on_cpu(sensitive: Any) -> Any:
    """The sensitive attribute of a batch on the CPU; arrays become tensors (of numbers) or lists (of names)."""
    if isinstance(sensitive, Tensor):
        return sensitive.cpu()
    if isinstance(sensitive, Mapping):
        return {key: on_cpu(value) for key, value in sensitive.items()}
    if isinstance(sensitive, np.ndarray):
        return tensor_of(sensitive) if is_numeric(sensitive) else sensitive.tolist()
    return sensitive


def _iterate(loader: Iterable[Any], split: str) -> Iterable[Any]:
    try:
        return iter(loader)
    except TypeError as error:
        raise DataError(
            f"expected the {split} loader to be iterable, yielding batches (x, y, s), got {type(loader).__name__}"
        ) from error


def _on_device(model: nn.Module) -> nn.Module:
    """Something that says where the model is, also for a model without parameters (which takes CPU batches)."""
    return model if next(model.parameters(), None) is not None else nn.Linear(1, 1)


def _joined(logits: list[Tensor], targets: list[Tensor], whose: str) -> Outputs:
    batches = [Outputs.parse(out, target) for out, target in zip(logits, targets, strict=True)]
    tasks = {batch.task: None for batch in batches}
    if len(tasks) > 1:
        raise DataError(f"expected one task in all batches, but {whose} gave {' and '.join(map(str, tasks))}")
    outputs = Outputs(
        torch.cat([batch.logits for batch in batches]).double(),
        torch.cat([batch.targets for batch in batches]),
        batches[0].num_classes,
        batches[0].num_labels,
    )
    wrong = ~torch.isfinite(outputs.logits).reshape(len(outputs.logits), -1).all(1)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        kinds = {"NaN": torch.isnan(outputs.logits), "infinity": torch.isinf(outputs.logits)}
        gave = " or ".join(kind for kind, where in kinds.items() if bool(where.any()))
        raise DataError(
            f"expected finite logits, but {whose} gave {gave} for {int(wrong.sum())} of {len(wrong)} samples (the first is "
            f"number {first}): a sample without a prediction cannot be judged, and leaving it out would flatter the model"
        )
    return outputs
