"""A digest of what a file of a pruned model says: a file of tensors has no checksum of its own, and one flipped bit in it is
another weight."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def digest(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of a JSON-safe record and of the names, dtypes, shapes and bytes of tensors.

    Args:
        record: Its order does not count.
        tensors: On the CPU, dense; their order does not count.
    """
    sha = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        sha.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        sha.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
