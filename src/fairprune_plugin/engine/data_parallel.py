"""One model on several ranks: wrapped for training, the same on all of them, its buffers as well."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler

from ..distributed import Ranks
from ..errors import ConfigError, TrainingStateError

Wrap = Callable[[nn.Module], nn.Module]
TOLERANCE = 1e-4


def wrap(model: nn.Module, ranks: Ranks, own: Wrap | None = None) -> nn.Module:
    """The model as it is trained: in torch's ``DistributedDataParallel`` if there are several ranks.

    Args:
        model: Bare.
        ranks: That train it.
        own: Wraps it in the user's way.

    Raises:
        ConfigError: If ``own`` returns something around another model.
    """
    if own is not None:
        wrapped = own(model)
        if not isinstance(wrapped, nn.Module) or all(module is not model for module in wrapped.modules()):
            raise ConfigError(
                "expected wrap=… to return a module around the model it was given, such as lambda m: DDP(m)"
            )
        return wrapped
    if ranks.size == 1:
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model, device_ids=None if device.type == "cpu" else [device], process_group=ranks.group
    )


def rewrap(wrapper: DistributedDataParallel) -> DistributedDataParallel:
    """A new wrapper, with the settings of the old one, around its model after channels were removed.

    The old wrapper holds parameters that are gone, and raises in its next forward pass: put the new one in its place,
    ``ddp = rewrap(ddp)``, on every rank.

    Raises:
        ConfigError: For something that is not a ``DistributedDataParallel``.
    """
    if not isinstance(wrapper, DistributedDataParallel):
        raise ConfigError(f"expected a DistributedDataParallel to wrap anew, got {type(wrapper).__name__}")
    # Deprecated since torch 2.13, whose replacement would make buffers that ranks have for themselves those of the first.
    own_buffers: dict[str, Any] = {} if wrapper.broadcast_buffers else {"broadcast_buffers": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return type(wrapper)(
            wrapper.module,
            device_ids=wrapper.device_ids,
            output_device=wrapper.output_device,
            dim=wrapper.dim,
            process_group=wrapper.process_group,
            bucket_cap_mb=wrapper.bucket_bytes_cap / 2**20,
            find_unused_parameters=wrapper.find_unused_parameters,
            gradient_as_bucket_view=wrapper.gradient_as_bucket_view,
            static_graph=wrapper.static_graph,
            mixed_precision=wrapper.mixed_precision,
            **own_buffers,
        )


def refuse_join(model: nn.Module) -> None:
    """Torch's ``Join`` lets ranks that are out of batches shadow DDP's messages only; ours would wait for them.

    Raises:
        ConfigError: Within ``with Join([ddp])``.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    for module in model.modules():
        if isinstance(module, DistributedDataParallel) and module._join_config.enable:
            raise ConfigError(
                "ranks with different numbers of batches, under torch's Join, cannot be trained: the counts of groups are "
                "summed over all ranks at every step. Give all ranks the same number of batches (DistributedSampler does), "
                "or start the data of a rank anew until all have taken total_steps, as fit() does"
            )


def refuse_different_settings(settings: Sequence[Mapping[str, Any]]) -> None:
    """The ranks of a run must take the same steps; how many batches each of their loaders has may differ.

    Args:
        settings: Of every rank.

    Raises:
        ConfigError: Naming what differs.
    """
    for key in settings[0]:
        values = [own.get(key) for own in settings]
        if not key.endswith(" batches") and any(value != values[0] for value in values):
            there = ", ".join(f"{value!r} on rank {rank}" for rank, value in enumerate(values))
            fix = (
                "; the loaders have different numbers of batches: pass total_steps to the pruner instead of epochs, or give "
                "all ranks as many (DistributedSampler does)"
                if key == "total_steps"
                else ": call fit() with the same arguments on every rank"
            )
            raise ConfigError(f"{key} differs between ranks: {there}{fix}")


def refuse_diverged(model: nn.Module, ranks: Ranks, *, gradients: bool = False) -> None:
    """The ranks must train one model; looked at are sums over each parameter, and over each gradient.

    Raises:
        TrainingStateError: If they do not, or their gradients were never averaged.
    """
    if ranks.size == 1:
        return
    sums = ranks.collect(lambda: _sums(model, gradients=gradients))
    if len({len(own) for own in sums}) > 1:
        raise TrainingStateError(
            "the ranks train models with different numbers of parameters: build the same one on each"
        )
    for i, (name, _) in enumerate(model.named_parameters()):
        for what, offset in (("parameter", 0), ("gradient", 2)):
            here = [own[i][offset : offset + 2] for own in sums]
            first, scale = here[0]
            if any(not abs(total - first) <= TOLERANCE * max(scale, size) for total, size in here):
                raise TrainingStateError(
                    f"the {what} of {name} differs between ranks ({', '.join(f'{total:.6g}' for total, _ in here)} in "
                    "sum): wrap the model in DistributedDataParallel on every rank, run the forward pass through the "
                    "wrapper, and leave no_sync() before the last backward() of a step"
                )


def _sums(model: nn.Module, *, gradients: bool) -> list[list[float]]:
    def of(tensor: Tensor | None) -> Tensor:
        values = torch.zeros(1) if tensor is None else tensor.detach().double()
        return torch.stack([values.sum(), values.abs().sum()]).cpu()

    rows = [torch.cat([of(p), of(p.grad if gradients else None)]) for p in model.parameters()]
    sums: list[list[float]] = torch.stack(rows).tolist()
    return sums


@torch.no_grad()
def share_buffers(model: nn.Module, ranks: Ranks) -> None:
    """The first rank's buffers on all of them, as data parallelism does before each forward pass: running statistics have
    followed another batch since."""
    if ranks.size > 1:
        for buffer in model.buffers():
            buffer.copy_(ranks.from_first(buffer))


@torch.no_grad()
def average_batch_norm(model: nn.Module, ranks: Ranks) -> None:
    """Running statistics that every rank has taken from its own batches, averaged."""
    if ranks.size == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for buffer in (module.running_mean, module.running_var):
                if buffer is not None:
                    buffer.copy_(ranks.mean(buffer))


def is_shard(loader: Iterable[Any]) -> bool:
    """Whether a loader is known to give each rank samples of its own."""
    batches = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batches, "sampler", None))
    return any(isinstance(sampler, DistributedSampler) for sampler in samplers)


def different_data(parts: list[Any], loader: Iterable[Any] | None, same: Callable[[Any, Any], bool]) -> list[Any]:
    """Of what every rank has found in its loader, what is to be counted: all of it, or one rank's if all ranks have read
    the same data. A sampler that is made for sharing out is believed; other loaders are judged by what was found.

    Args:
        parts: One of each rank.
        loader: Of this rank.
        same: Whether two parts are of the same data.
    """
    if loader is not None and is_shard(loader):
        return parts
    return parts[:1] if all(same(parts[0], part) for part in parts[1:]) else parts
