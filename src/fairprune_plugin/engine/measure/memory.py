"""Most memory that one forward pass needs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .evaluate import mode


def peak_memory_bytes(model: nn.Module, run: Callable[[], Any]) -> int:
    """Bytes of parameters and buffers, plus the most that one forward pass holds at once beyond them.

    In eval mode and without gradients. Inputs made before are not counted, intermediate results and outputs are. Where the
    model is on CUDA, the allocator's statistics are read and include the workspaces of its kernels; on other devices the
    tensors that are alive together are counted, which does not depend on the machine, and workspaces inside one
    operation are not seen.

    Args:
        model: Its parameters decide the device.
        run: Runs the model once.
    """
    storages = {
        storage.data_ptr(): storage
        for storage in (tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers()))
    }
    stored = sum(int(storage.nbytes()) for storage in storages.values())
    parameter = next(model.parameters())
    live = _LiveStorages()
    with mode(model, training=False), torch.no_grad():
        if parameter.is_cuda:
            return stored + _allocated_on_cuda(parameter.device, run)
        with live:
            run()
    return stored + live.peak


def _allocated_on_cuda(device: torch.device, run: Callable[[], Any]) -> int:
    run()  # libraries take their handles and workspaces at the first call
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


class _LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations have made and that are still alive.

    Attributes:
        peak: The most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            # A view, or what was written in place, lives in the storage of an input: nothing new.
            if isinstance(leaf, Tensor) and self._key(leaf) not in given:
                self._add(leaf.untyped_storage())
        return out

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return int(tensor.untyped_storage()._cdata)

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._release, size).atexit = False

    def _release(self, size: int) -> None:
        self._now -= size
