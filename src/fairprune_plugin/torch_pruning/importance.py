"""The criterion alone, for any Torch-Pruning pruner: learned scores of a run, or the Lagrangian's saliency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning import ops

from ..checks import whole_number
from ..distributed import Ranks
from ..engine.loaders.batches import Batch, Forward, default_forward, read_batch
from ..engine.loaders.empty_batches import with_samples
from ..errors import ConfigError, DataError
from ..fairness.constraint import Constraint
from ..fairness.lagrangian import Lagrangian, TaskLoss

_Layer = nn.Linear | nn.modules.conv._ConvNd


class BiFPImportance(tp.importance.Importance):  # type: ignore[misc]
    """Importance of a group's channels, for ``importance=`` of any Torch-Pruning pruner.

    With a run, ``BiFPImportance(run=pruner)``: the scores that the run's mask has learned.

    Without one, ``BiFPImportance(model, loader, constraint=…)``: the saliency of the Lagrangian. A channel's
    score is the mean over calibration batches of (dL/dm)², with dL/dm the sum over the channel's in-weights in
    every consumer of θ ⊙ ∂L/∂θ (Molchanov et al., CVPR 2019, on the loss *with* its fairness term, whose
    multipliers rise with the violations seen while calibrating). The model's weights, gradients, running
    statistics and modes are left as they were.

    Args:
        model: The model to be scored.
        loader: Calibration batches ``(x, y, s)``; ``(x, y)`` without a constraint.
        constraint: One, several or none.
        run: A :class:`~.pruner.BiFPPruner` in or after training; excludes all other arguments.
        task_loss: ``(logits, targets) → scalar``; default cross entropy.
        max_batches: Upper bound on calibration batches.
        multiplier: Weight of each violated constraint's surrogate.
        forward: ``(model, x) → logits``.

    Raises:
        ConfigError: If neither a run nor a model with a loader is given.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        loader: Iterable[Any] | None = None,
        *,
        constraint: Constraint | Sequence[Constraint] | None = None,
        run: Any = None,
        task_loss: TaskLoss | None = None,
        max_batches: int = 32,
        multiplier: float = 1.0,
        forward: Forward = default_forward,
    ) -> None:
        if (run is None) == (model is None or loader is None):
            raise ConfigError(
                "expected either run=pruner (scores of a run) or a model and a calibration loader "
                "(BiFPImportance(model, loader, constraint=…)), and not both"
            )
        self._run = run
        self._model = model
        self._loader = loader
        asked = (constraint,) if isinstance(constraint, Constraint) else tuple(constraint or ())
        # A demand relative to the dense model is met by the dense model, which is the one scored here.
        self._constraint = tuple(item for item in asked if not getattr(item, "relative_to_dense", False))
        self._task_loss = task_loss
        self._max_batches = whole_number("max_batches", max_batches, 1)
        self._multiplier = multiplier
        self._forward = forward
        self._column_sums: dict[nn.Module, Tensor] = {}
        self._measured_at: list[tuple[int, int]] = []

    def __call__(self, group: Any) -> Tensor | None:
        """One score per channel of ``group[0].idxs``; ``None`` where nothing is known of the group."""
        if self._run is not None:
            scores: Tensor | None = self._run.learned_scores(group)
            return scores
        return self._saliency(group)

    def _saliency(self, group: Any) -> Tensor | None:
        total: Tensor | None = None
        root = list(group[0].idxs)
        position = {channel: i for i, channel in enumerate(root)}
        for i in range(len(group)):
            layer, dep = group[i].dep.target.module, group[i].dep
            reads = isinstance(layer, _Layer) and not group._DG.is_out_channel_pruning_fn(dep.handler)
            if not reads or ops.module2type(layer) == ops.OPTYPE.DEPTHWISE_CONV:
                continue
            sums = self._sums_of(layer)
            # Channels that no channel of the root stands for (grouped-query attention) have no say, as in the host's scores.
            known = [(c, position[r]) for c, r in zip(group[i].idxs, group[i].root_idxs, strict=True) if r is not None]
            if not known:
                continue
            columns, rows = torch.tensor(known).unbind(1)
            if total is None:
                total = torch.zeros(len(sums), len(root), dtype=torch.float32)
            total.index_add_(1, rows, sums[:, columns])
        return None if total is None else total.square().mean(dim=0)

    def _sums_of(self, layer: nn.Module) -> Tensor:
        """Per batch, Σ θ ⊙ g over what reads each input channel, ``(batches, C_in)``; measured when outdated."""
        if layer not in self._column_sums or self._measured_at != self._state():
            self.calibrate()
        return self._column_sums[layer]

    def _state(self) -> list[tuple[int, int]]:
        """Changes with every training step and every removal of channels."""
        assert self._model is not None
        return [(id(parameter), parameter._version) for parameter in self._model.parameters()]

    def calibrate(self) -> None:
        """Measures the saliency of the model as it is now (done by itself after training or a removal of channels).

        Raises:
            DataError: If the loader is empty.
        """
        assert self._model is not None
        assert self._loader is not None
        model = self._model
        lagrangian = Lagrangian(self._constraint, task_loss=self._task_loss)
        layers = [module for module in model.modules() if isinstance(module, _Layer)]
        sums: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
        gradients = {parameter: parameter.grad for parameter in model.parameters()}
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        modes = {module: module.training for module in model.modules()}
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            for number, raw in enumerate(with_samples(self._loader)):
                if number >= self._max_batches:
                    break
                self._one_batch(lagrangian, read_batch(raw, model), sums)
            if number_of(sums) == 0:
                raise DataError("the calibration loader of BiFPImportance is empty: no batch to score channels on")
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
            for module, mode in modes.items():
                module.training = mode
        # Every rank of a data-parallel job prunes its own copy of the model: scores are those of all ranks' batches.
        parts = Ranks().collect(lambda: [torch.stack(rows) for rows in sums.values()])
        self._column_sums = {layer: torch.cat(rows) for layer, *rows in zip(layers, *parts, strict=True)}
        self._measured_at = self._state()

    def _one_batch(self, lagrangian: Lagrangian, batch: Batch, sums: dict[nn.Module, list[Tensor]]) -> None:
        assert self._model is not None
        for parameter in self._model.parameters():
            parameter.grad = None
        with torch.enable_grad():
            logits = self._forward(self._model, batch.inputs)
            loss = lagrangian.loss(logits, batch.targets, batch.sensitive)
            loss.backward()  # type: ignore[no-untyped-call]
        for tracker in lagrangian.trackers:
            violated = tracker.strict_violation(tracker.counts, "train") > 0
            tracker.multipliers.set(self._multiplier * violated.float())
        for layer, rows in sums.items():
            weight: nn.Parameter = layer.weight  # type: ignore[assignment]
            product = torch.zeros_like(weight) if weight.grad is None else weight.detach() * weight.grad
            rows.append(_by_input_channel(layer, product).cpu())


def number_of(sums: dict[nn.Module, list[Tensor]]) -> int:
    """Batches measured so far."""
    return max((len(rows) for rows in sums.values()), default=0)


def _by_input_channel(layer: nn.Module, product: Tensor) -> Tensor:
    """Sums a tensor shaped like a layer's weight over everything but its input channels, ``(C_in,)``."""
    if getattr(layer, "transposed", False):
        return product.flatten(1).sum(1)
    # The rows of a grouped convolution's block g read the input channels of block g.
    blocks = product.reshape(int(getattr(layer, "groups", 1)), -1, *product.shape[1:])
    sums: Tensor = blocks.flatten(3).sum((1, 3)).flatten() if blocks.dim() > 3 else blocks.sum(1).flatten()
    return sums
