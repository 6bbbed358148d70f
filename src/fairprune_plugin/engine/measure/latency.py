"""Wall-clock time of one forward pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .evaluate import mode


def latency_ms(model: nn.Module, run: Callable[[], Any], *, repeats: int = 20) -> float:
    """Median milliseconds of a forward pass in eval mode, after warm-up; waits for CUDA where the model is."""
    parameter = next(model.parameters())

    def once() -> float:
        if parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)
        begin = time.perf_counter()
        run()
        if parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)
        return (time.perf_counter() - begin) * 1e3

    with mode(model, training=False), torch.no_grad():
        for _ in range(3):
            once()
        return statistics.median(once() for _ in range(repeats))
