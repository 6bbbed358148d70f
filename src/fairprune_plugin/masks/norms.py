"""Normalisations across a masked dimension: their statistics must run over the kept channels only.

Zeroing weights cannot do that, so while channels under such a layer are hidden it carries a forward hook;
the hook goes when the mask does.
"""

from __future__ import annotations

import sys
import weakref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..value_checks import reading_waits
from .groups import unit_axis
from .masked_weights import MaskedWeights


class MaskedNorms:
    """Keeps the layer and group norms of a model consistent with its mask.

    Args:
        weights: The mask; its groups say which norms they cross.
    """

    def __init__(self, weights: MaskedWeights) -> None:
        self._weights = weights
        self._units: dict[nn.Module, Tensor] = {}
        self._handles: dict[nn.Module, RemovableHandle] = {}
        self._hooks: dict[nn.Module, KeptStatistics] = {}
        weakref.finalize(self, _remove_all, self._handles)
        for index, group in enumerate(weights.groups):
            offset = weights.offsets[index]
            for site in group.norms:
                unit = self._units.setdefault(site.module, unit_axis(len(site.unit), site.unit.device))
                unit[site.unit >= 0] = site.unit[site.unit >= 0] + offset

    def refresh(self) -> None:
        """Follows a change of the mask: hooks appear where channels are hidden (on an accelerator: may be) and go where
        none is."""
        appeared = False
        for module, unit in self._units.items():
            keep = torch.where(unit >= 0, self._weights.keep[unit.clamp_min(0)], True)
            if not reading_waits(keep.device) and bool(keep.all()):
                self._drop(module)
            elif module in self._hooks:
                self._hooks[module].keep.copy_(keep)
            else:
                self._hooks[module] = KeptStatistics(keep)
                # Before all other hooks: those of fully_shard take the norm's own weights away again.
                self._handles[module] = module.register_forward_hook(self._hooks[module], prepend=True)
                appeared = True
        if appeared:
            _forget_compiled_graphs()

    def release(self) -> None:
        """Removes every hook."""
        for module in list(self._handles):
            self._drop(module)

    def _drop(self, module: nn.Module) -> None:
        handle = self._handles.pop(module, None)
        if handle is not None:
            handle.remove()
            del self._hooks[module]
            _forget_compiled_graphs()


def _remove_all(handles: dict[nn.Module, RemovableHandle]) -> None:
    """A forgotten pruner leaves no hook on the user's model."""
    for handle in handles.values():
        handle.remove()


def forget_copied_hooks(model: nn.Module) -> None:
    """A copy of a model under a mask has copies of its hooks, which no mask moves any more: they go."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, KeptStatistics):
                del module._forward_hooks[key]


class KeptStatistics:
    """Forward hook that replaces a norm's output by the one with statistics over the kept channels.

    Args:
        keep: ``(C,)`` bool; updated in place when the mask changes.
    """

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # In float32 as the layers themselves do: sums of squares leave the range of float16.
        x = args[0].float() if args[0].dtype in (torch.float16, torch.bfloat16) else args[0]
        return self._over_kept(x, module).to(output.dtype)

    def _over_kept(self, x: Tensor, module: nn.Module) -> Tensor:
        if isinstance(module, nn.GroupNorm):
            return group_norm_over(x, self.keep, module)
        assert isinstance(module, nn.LayerNorm)
        if _channels_first(module, x):
            return layer_norm_over(x.movedim(1, -1), self.keep, module).movedim(-1, 1)
        return layer_norm_over(x, self.keep, module)


def _channels_first(norm: nn.LayerNorm, x: Tensor) -> bool:
    """Whether a layer norm's own subclass normalises dimension 1 of a feature map ``(N, C, H, W)``, as those of ConvNeXt
    do: it says so (``data_format``), or the shape does. A wrong guess is caught by the pruner's self-check."""
    if type(norm).forward is nn.LayerNorm.forward or x.dim() < 3:
        return False
    layout = getattr(norm, "data_format", None)
    if layout is not None:
        return bool(layout == "channels_first")
    return x.shape[1] == norm.normalized_shape[0]


def _forget_compiled_graphs() -> None:
    """torch.compile does not notice hooks that come or go after it has compiled a module (it does not guard
    them): compiled graphs are dropped then, at the price of compiling again."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def layer_norm_over(x: Tensor, keep: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm of ``(…, C)`` with mean and variance over the channels in ``keep``, ``(C,)`` bool."""
    weight = keep.to(x.dtype)
    count = weight.sum()
    mean = (x * weight).sum(-1, keepdim=True) / count
    variance = ((x - mean).square() * weight).sum(-1, keepdim=True) / count
    out = (x - mean) * torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        out = out * norm.weight
    return out if norm.bias is None else out + norm.bias


def group_norm_over(x: Tensor, keep: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group norm of ``(N, C, *)`` with statistics over the kept channels of each group."""
    grouped = x.reshape(len(x), norm.num_groups, x.shape[1] // norm.num_groups, -1)
    weight = keep.to(x.dtype).reshape(1, norm.num_groups, -1, 1).expand_as(grouped)
    # A group without a kept channel is read by nobody; it must only stay finite, as 0 times NaN is NaN.
    count = weight.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (grouped * weight).sum((2, 3), keepdim=True) / count
    variance = ((grouped - mean).square() * weight).sum((2, 3), keepdim=True) / count
    out = ((grouped - mean) * torch.rsqrt(variance + norm.eps)).reshape(x.shape)
    if norm.affine:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        out = out * norm.weight.reshape(shape) + norm.bias.reshape(shape)
    return out
