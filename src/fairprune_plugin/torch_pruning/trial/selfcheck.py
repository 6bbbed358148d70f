"""Before any training: is the masked model really the pruned one? Tried on a copy, with random masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModelError
from ...masks.masked_weights import MaskedWeights
from ...masks.norms import MaskedNorms
from ..channels.example import Example
from ..channels.grouping import HostGroup
from ..removal.removal import HeadDims, pruning_groups
from .twin import Twin
from .unseen_layers import unseen_layer_that_fails

MOST_GROWTH = 1e3
TOLERANCE = 1e-3  # relative; exact architectures agree to 1e-6, inexact ones are wrong by more than 1e-2

Run = Callable[[], list[Tensor]]


def randomise_norms(model: nn.Module, generator: torch.Generator) -> None:
    """Random statistics, affines and biases: a fresh batch norm maps 0 to 0, which would hide what is inexact."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.copy_(_normal(module.running_mean, generator) * 0.3)
                module.running_var.copy_(_normal(module.running_var, generator).abs() + 0.5)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(_normal(parameter, generator) * 0.2)


def grow(matrices: Iterable[Tensor]) -> None:
    """Small matrices keep the size of what they multiply from now on: over small numbers, such as the scores of a fresh
    transformer, a softmax is flat, which would hide what is inexact."""
    with torch.no_grad():
        for matrix in matrices:
            gain = (matrix.square().mean() * (matrix.numel() // len(matrix))).sqrt()
            matrix.mul_((1 / gain.clamp_min(1 / MOST_GROWTH)).clamp_min(1))


def uneven_half(units: int, generator: torch.Generator) -> Tensor:
    """About half of a group's units, ``(k,)`` int64, at random, but more of its first half than of its second: a model that
    cuts a tensor into equal parts runs on if each of them happens to lose as many channels."""
    first, second = (torch.randperm(size, generator=generator) for size in (units // 2, units - units // 2))
    return torch.cat([first[: -(-3 * len(first) // 4)], second[: len(second) // 4] + len(first)])


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def outputs_of(model: nn.Module, run: Run) -> list[Tensor]:
    """All floating-point tensors of the model's output, in eval mode."""
    model.eval()
    with torch.no_grad():
        return [tensor.clone() for tensor in run()]


def masked_and_pruned(
    pruner: Any, groups: Sequence[HostGroup], chosen: Sequence[int], run: Run, seed: int
) -> tuple[list[Tensor], list[Tensor]] | None:
    """Hides about half of the units of the chosen groups, then prunes them (the model is used up): outputs before and
    after; ``None`` if the pruned model does not run."""
    generator = torch.Generator().manual_seed(seed)
    weights = MaskedWeights(tuple(group.channels for group in groups))
    norms = MaskedNorms(weights)
    keep = torch.ones(weights.num_units, dtype=torch.bool)
    for index in chosen:
        keep[uneven_half(groups[index].channels.num_units, generator) + weights.offsets[index]] = False
    weights.restore(keep, [None] * len(weights.parameters))  # nothing is held aside: no channel of the copy returns
    norms.refresh()
    roots = {group.root for group in groups}
    with _waiting_for(roots) as silent:
        masked = outputs_of(pruner.model, run)
    norms.release()
    if silent == roots:
        raise UnsupportedModelError(
            "masks are checked on a copy of the model, and what ran was not the copy: expected forward_fn(model, inputs) "
            "to call the model that it is given (and no forward on the instance that is bound to another object)"
        )
    if silent:
        return None
    hidden = [~keep[weights.of(index)] for index in range(len(groups))]
    try:
        head_dims = HeadDims(pruner)
        for group in pruning_groups(pruner, groups, hidden):
            group.prune()
        head_dims.update()
        return masked, outputs_of(pruner.model, run)
    except (RuntimeError, ValueError, IndexError, KeyError, AttributeError, AssertionError):
        return None  # the host's graph does not fit the model: the pruned network does not even run


def alike(both: tuple[list[Tensor], list[Tensor]] | None) -> bool:
    """Whether there are outputs, and the same masked and pruned."""
    return both is not None and len(both[0]) == len(both[1]) and all(map(close, *both))


def narrower(masked: list[Tensor], pruned: list[Tensor]) -> list[int]:
    """Which outputs have lost channels, where that is the only difference."""
    if len(masked) != len(pruned):
        return []
    lost = [i for i, (a, b) in enumerate(zip(masked, pruned, strict=True)) if a.shape != b.shape]
    same_rank = all(masked[i].dim() == pruned[i].dim() for i in lost)
    others = [i for i in range(len(masked)) if i not in lost]
    return lost if same_rank and others and all(close(masked[i], pruned[i]) for i in others) else []


@contextmanager
def _waiting_for(layers: Iterable[nn.Module]) -> Iterator[set[nn.Module]]:
    """Those of some layers that have not been called yet."""
    silent = set(layers)
    handles = [layer.register_forward_hook(lambda called, *_: silent.discard(called)) for layer in silent]
    try:
        yield silent
    finally:
        for handle in handles:
            handle.remove()


def close(a: Tensor, b: Tensor) -> bool:
    """Of one shape, and equal relative to the largest value."""
    if a.shape != b.shape:
        return False
    scale = float(a.abs().max().clamp_min(1e-12)) if a.numel() else 1.0
    return bool(((a - b).abs().max() if a.numel() else torch.zeros(())) <= TOLERANCE * scale)


def check_on_copies(pruner: Any, example: Example) -> None:
    """Tries a pruner whose graph has just been built, on copies of its model.

    Args:
        pruner: With its ``model``, graph and ``host_groups``.
        example: Inputs of the model.

    Raises:
        UnsupportedModelError: As :func:`check` does.
    """

    def rebuild_copy() -> tuple[Any, list[HostGroup], Run]:
        twin = Twin(pruner, example)
        randomise_norms(twin.model, torch.Generator().manual_seed(0))
        grow(twin.masked)
        return twin, twin.groups, lambda: twin.example.outputs(twin.model)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host has said all this about the original
        check(rebuild_copy)


def check(rebuild: Callable[[], tuple[Any, list[HostGroup], Run]]) -> None:
    """Refuses a model whose mask would lie.

    Args:
        rebuild: Makes a fresh copy of the pruner (with its own copy of the model) and its groups, and says how to run that
            copy on the example inputs for its output tensors.

    Raises:
        UnsupportedModelError: Naming the groups that are not exact and their layers; or if a copy cannot be run, or a
            layer that the graph does not see reads channels that would go.
    """
    pruner, groups, run = rebuild()
    both = masked_and_pruned(pruner, groups, range(len(groups)), run, seed=0)
    if alike(both):
        return
    if both is not None and (lost := narrower(*both)):
        of = len(both[0])
        shapes = ", ".join(f"{i + 1} of {of} from {tuple(both[0][i].shape)} to {tuple(both[1][i].shape)}" for i in lost)
        raise UnsupportedModelError(
            f"the model returns features whose channels would go (tensor {shapes} in a trial): who "
            "reads them outside of the model would find fewer. If that is as it should be, let "
            "forward_fn=lambda model, x: … of the pruner return the other outputs alone; else add the layers that make "
            f"them to ignored_layers: {differing(rebuild, groups)}"
        )
    unseen = unseen_layer_that_fails(pruner.model, pruner.DG, run)
    names = differing(rebuild, groups)
    if unseen is not None:
        raise UnsupportedModelError(
            f"{unseen} runs in the forward pass, but the pruner's trace does not see what comes of it (an "
            "output that forward_fn leaves out, or a detach()), so that nobody would remove the channels read there; "
            f"masked and pruned models differ at {names}. Let forward_fn of the pruner return all outputs, as a tuple of "
            "tensors (fit has a forward= of its own, to pick logits), or add the layers that differ to ignored_layers"
        )
    raise UnsupportedModelError(
        "for this architecture a masked channel is not the same as a pruned one (a softmax over pruned features, "
        "packed multi-head attention, a flatten the graph cannot follow, or a reshape with fixed sizes): "
        f"{names}. Add these layers to ignored_layers"
    )


def differing(rebuild: Callable[[], tuple[Any, list[HostGroup], Run]], groups: list[HostGroup]) -> str:
    """The groups that are not exact one at a time, each with its first layers, as a message names them.

    Args:
        rebuild: As for :func:`check`; one copy is made for each group.
        groups: Of the first copy, in the same order.
    """
    guilty = []
    for index, group in enumerate(groups):
        pruner, copies, run = rebuild()
        if not alike(masked_and_pruned(pruner, copies, [index], run, seed=index)):
            guilty.append(f"{group.channels.name} (with {', '.join(group.channels.layers[1:5])})")
    return "; ".join(guilty) if guilty else "all groups together"
