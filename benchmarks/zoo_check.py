"""One model of the zoo through everything: graph, two training steps under a constraint, removal, export."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from architectures.architecture import Architecture, logits_of
from fairprune_plugin import AccuracyParity, BiLevelConfig
from fairprune_plugin.engine.measure.latency import latency_ms
from fairprune_plugin.engine.measure.memory import peak_memory_bytes
from fairprune_plugin.errors import FairPruneError
from fairprune_plugin.export import export_onnx, export_program
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.torch_pruning.channels.tracing import undisturbed
from fairprune_plugin.torch_pruning.trial.selfcheck import randomise_norms

PRUNED, REFUSED, FAILED = "pruned", "refused", "failed"
MASK_AT_ONCE = BiLevelConfig(warmup=0.0, ramp_end=1.0)  # both of two steps move weights and mask


@dataclass(frozen=True)
class Finding:
    """What happened to one model.

    Attributes:
        outcome: ``"pruned"``, ``"refused"`` before training, or ``"failed"``.
        reason: Of a refusal or a failure.
        groups: Groups of channels with a mask.
        params: Before and after.
        macs: Before and after, of one sample.
        memory: Peak bytes of a forward pass of four samples, before and after.
        latency: Milliseconds of the same, before and after.
        moved: Largest difference of the outputs between no mask and the mask: the next number means something if this
            one is large.
        masked_pruned: Largest difference of the outputs before and after the removal, relative to the largest output.
        exported: The same between the pruned model and its ``torch.export``; an error's text if that fails.
        onnx: The same for onnxruntime; ``None`` if it was not asked for.
        graph_seconds: Torch-Pruning's own graph building.
        build_seconds: Construction of our pruner, with that inside and the self-check.
    """

    name: str
    source: str
    what: str
    outcome: str
    reason: str = ""
    groups: int = 0
    params: tuple[int, int] = (0, 0)
    macs: tuple[float, float] = (0.0, 0.0)
    memory: tuple[int, int] = (0, 0)
    latency: tuple[float, float] = (0.0, 0.0)
    moved: float = 0.0
    masked_pruned: float = 0.0
    exported: float | str | None = None
    onnx: float | str | None = None
    graph_seconds: float = 0.0
    build_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


def examine(architecture: Architecture, *, onnx: bool = False, export: bool = True, costs: bool = True) -> Finding:
    """Takes one model through everything; its own errors become the finding.

    Args:
        architecture: Of the zoo.
        onnx: Whether to export to ONNX and run that.
        export: Whether to try ``torch.export``.
        costs: Whether to take time and memory.
    """
    torch.manual_seed(0)
    finding = Finding(architecture.name, architecture.source, architecture.what, FAILED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries the models come from
        try:
            return _examined(architecture, finding, onnx, export, costs)
        except Refusal as error:
            return replace(finding, outcome=REFUSED, reason=str(error))
        except Exception as error:
            return replace(finding, reason=f"{type(error).__name__}: {error}")


class Refusal(Exception):
    """The pruner said no before any training."""


def _examined(architecture: Architecture, finding: Finding, onnx: bool, export: bool, costs: bool) -> Finding:
    model, inputs = architecture.build(), architecture.inputs()
    randomise_norms(model, torch.Generator().manual_seed(0))  # fresh norms hide what is inexact

    def run() -> Any:
        return model(**inputs) if isinstance(inputs, dict) else model(inputs)

    params, dense = _params(model), _judged(model, run)
    memory = peak_memory_bytes(model, run) if costs else 0
    latency = latency_ms(model, run, repeats=10) if costs else 0.0
    begin = time.perf_counter()
    if costs:
        _host_graph(model, inputs)
    graph_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    try:
        pruner = BiFPPruner(
            model,
            inputs,
            pruning_ratio=0.5,
            ignored_layers=architecture.ignored(model),
            constraint=AccuracyParity(tolerance=0.05, groups=2),
            total_steps=2,
            bilevel=MASK_AT_ONCE,
            output_transform=logits_of,
            **architecture.options(model),
        )
    except FairPruneError as error:
        raise Refusal(str(error)) from error
    pruner.engine.final_after_ramp = False  # hidden channels are shown once more
    build_seconds = time.perf_counter() - begin
    macs, _ = pruner.count()
    groups = len(pruner.host_groups)
    _train_two_steps(pruner, model, run)
    masked = _judged(model, run)
    unmasked = _unmasked(pruner, model, run)
    pruner.step()
    pruned = _judged(model, run)
    finding = replace(
        finding,
        outcome=PRUNED,
        groups=groups,
        params=(params, _params(model)),
        macs=(macs, pruner.count()[0]),
        memory=(memory, peak_memory_bytes(model, run) if costs else 0),
        latency=(latency, latency_ms(model, run, repeats=10) if costs else 0.0),
        moved=_apart(unmasked, masked),
        masked_pruned=_apart(masked, pruned),
        graph_seconds=graph_seconds,
        build_seconds=build_seconds,
    )
    assert dense.shape == pruned.shape
    if export:
        finding = replace(finding, exported=_exported(model, inputs, pruned))
    if onnx:
        finding = replace(finding, onnx=_as_onnx(model, inputs, pruned))
    return finding


def _train_two_steps(pruner: BiFPPruner, model: nn.Module, run: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        logits = logits_of(run())
        samples = torch.arange(len(logits))
        pruner.loss(logits, samples % logits.shape[1], samples % 2).backward()
        pruner.regularize(model)
        optimizer.step()


def _unmasked(pruner: BiFPPruner, model: nn.Module, run: Any) -> Tensor:
    """The outputs with every channel shown, on the same weights."""
    keep = pruner.engine.weights.keep.clone()
    pruner.engine.set_mask(torch.ones_like(keep))
    shown = _judged(model, run)
    pruner.engine.set_mask(keep)
    return shown


def _exported(model: nn.Module, inputs: Any, expected: Tensor) -> float | str:
    try:
        program = export_program(model, inputs)
    except FairPruneError as error:
        return str(error)
    module = program.module()
    with torch.no_grad():
        got = logits_of(module(**inputs) if isinstance(inputs, dict) else module(inputs))
    return _apart(expected, got)


def _as_onnx(model: nn.Module, inputs: Any, expected: Tensor) -> float | str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            largest = export_onnx(model, inputs, Path(folder) / "model.onnx")
        except FairPruneError as error:
            return str(error)
    return largest / max(float(expected.abs().max()), 1e-12)


def _host_graph(model: nn.Module, inputs: Any) -> None:
    """Torch-Pruning's own construction, to compare ours with; what it cannot do is met again below."""
    twin = copy.deepcopy(model)
    try:
        with undisturbed(twin):
            tp.DependencyGraph().build_dependency(twin, inputs, output_transform=logits_of)
    except Exception:
        return


def _judged(model: nn.Module, run: Any) -> Tensor:
    model.eval()
    with torch.no_grad():
        return logits_of(run()).clone()


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
