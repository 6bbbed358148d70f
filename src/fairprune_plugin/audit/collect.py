"""One pass over a loader: what the model, and the reference model beside it, said about every sample, on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.batches import Forward, missing_sensitive, read_batch
from ..engine.evaluate import mode
from ..errors import DataError
from ..fairness.outputs import Outputs
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
            DataError: For shapes that do not fit, NaN logits, or a reference that predicts something else.
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
        present = torch.unique(outputs.targets)
        if outputs.num_labels is None and len(present) == 1:
            notes = [
                *notes,
                f"every label is class {int(present)}: rates that condition on another class are undefined",
            ]
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
    with ExitStack() as modes, torch.no_grad():
        for each in models:
            modes.enter_context(mode(each, training=False))
        for raw in _iterate(loader, split):
            for place, each in enumerate(models):
                batch = read_batch(raw, _on_device(each))
                if batch.sensitive is None:
                    raise missing_sensitive(raw, split)
                out = forward(each, batch.inputs)
                if not isinstance(out, Tensor):
                    raise DataError(
                        f"expected the model to return a tensor (or an object with .logits), got {type(out).__name__}: pass "
                        "forward=lambda model, x: …"
                    )
                logits[place].append(out.detach().cpu())
            if not isinstance(batch.targets, Tensor):
                raise DataError(f"expected targets as a tensor, got {type(batch.targets).__name__}")
            targets.append(batch.targets.cpu())
            sensitive.append(batch.sensitive)
    if not targets:
        raise DataError(f"the {split} loader is empty: no batch to audit")
    return Predictions.of(logits[0], logits[1] if reference_model else [], targets, sensitive, scores=scores)


def on_cpu(sensitive: Any) -> Any:
    """The sensitive attribute of a batch on the CPU; arrays become tensors (of numbers) or lists (of names)."""
    if isinstance(sensitive, Tensor):
        return sensitive.cpu()
    if isinstance(sensitive, Mapping):
        return {key: on_cpu(value) for key, value in sensitive.items()}
    if isinstance(sensitive, np.ndarray):
        return torch.from_numpy(sensitive) if sensitive.dtype.kind in "biuf" else sensitive.tolist()
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
    wrong = torch.isnan(outputs.logits).reshape(len(outputs.logits), -1).any(1)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise DataError(
            f"expected finite logits, but {whose} gave NaN for {int(wrong.sum())} of {len(wrong)} samples (the first is "
            f"number {first}): a sample without a prediction cannot be judged, and leaving it out would flatter the model"
        )
    return outputs
