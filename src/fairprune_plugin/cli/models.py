"""A model from the command line: a callable that builds it and its weights, or a file with the whole module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from .imports import called

EXPORTED = ".pt2"
SAFETENSORS = ".safetensors"


class Exported(nn.Module):
    """A ``torch.export`` program; it has no train mode to be taken out of, so it is not a child of this module."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self._program = (program,)

    def forward(self, *inputs: Any) -> Any:
        return self._program[0](*inputs)


def load_model(spec: str, weights: str | None, *, allow_pickle: bool, device: str) -> nn.Module:
    """The model that ``--model`` and ``--weights`` describe, on a device.

    Args:
        spec: ``package.module:callable``, or a file with a whole module.
        weights: A state dict: ``.safetensors``, or a file of ``torch.save`` read with ``weights_only``.
        allow_pickle: Whether files with whole modules may be unpickled; that runs code from the file.
        device: Where the model goes.

    Raises:
        ConfigError: If anything cannot be loaded.
    """
    model = called(spec, "--model") if ":" in spec and not Path(spec).exists() else _whole(spec, allow_pickle)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"expected {spec} to give a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        try:
            model.load_state_dict(_state(weights))
        except RuntimeError as error:
            raise ConfigError(f"the weights in {weights} do not fit the model of {spec}: {error}") from error
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"cannot move the model to --device {device}: {error}") from error


def _whole(spec: str, allow_pickle: bool) -> Any:
    path = Path(spec)
    if not path.exists():
        raise ConfigError(f"expected --model as package.module:callable, or an existing file, got {spec!r}")
    if not allow_pickle:
        raise ConfigError(
            f"{spec} holds a whole module, and loading it can run any code in the file: pass --allow-pickle if you trust "
            "it, or --model package.module:callable with --weights"
        )
    try:
        if path.suffix == EXPORTED:
            return Exported(torch.export.load(path).module())
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ConfigError(f"cannot load the module in {spec}: {error!r}") from error


def _state(weights: str) -> dict[str, torch.Tensor]:
    path = Path(weights)
    if not path.exists():
        raise ConfigError(f"expected weights in a file, but there is no {weights}")
    try:
        if path.suffix == SAFETENSORS:
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ConfigError(f"{weights} needs the package safetensors: pip install safetensors") from error
    except Exception as error:  # a file that is no state dict fails in many ways
        raise ConfigError(
            f"cannot read {weights} as a state dict (weights only): {error}. A whole module goes to --model with "
            "--allow-pickle"
        ) from error
    if not isinstance(state, dict):
        raise ConfigError(f"expected a state dict in {weights}, got {type(state).__name__}")
    return dict(state.get("state_dict", state))
