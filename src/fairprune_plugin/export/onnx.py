"""A pruned model as an ONNX file, whose answers by onnxruntime are compared with the model's."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..checks import shown
from ..engine.measure.evaluate import mode
from ..engine.storage.atomic import atomically
from ..errors import ConfigError, MissingHostError
from .calls import TOLERANCE, answers, difference, fewer, tensors
from .program import checked_call, not_exportable


def export_onnx(
    model: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = False,
    tolerance: float = TOLERANCE,
) -> float:
    """Writes a model to an ONNX file and checks it with onnxruntime on the example inputs.

    Nothing is left at ``path`` unless the check passed; an older file there stays until then.

    Args:
        model: Pruned: channels removed by ``step()`` or ``fit``, not only hidden. Exported in eval mode.
        example_inputs: As they were given to the pruner.
        path: For example ``"pruned.onnx"``. One file; weights are inside.
        dynamic_batch: Whether any batch size shall do (tried with another one); needs two samples or more.
        tolerance: Largest difference that is accepted, relative to the largest output; whole numbers and truth values
            among the outputs must be equal.

    Returns:
        The largest absolute difference between onnxruntime's outputs and the model's.

    Raises:
        ConfigError: If channels are still hidden, the model cannot run on the inputs, the file cannot be there, or
            another argument means nothing.
        UnsupportedModelError: If the model cannot be exported, or onnxruntime answers otherwise than the model.
        MissingHostError: Without the packages of the extra ``export``.
    """
    runtime = _packages()
    file = _file(path)
    args, kwargs, shapes = checked_call(model, example_inputs, dynamic_batch, tolerance)
    with atomically(file) as unfinished:
        try:
            with mode(model, training=False), torch.no_grad(), _quiet():
                program = torch.onnx.export(
                    model, args, kwargs=kwargs, dynamic_shapes=shapes, dynamo=True, verbose=False
                )
                assert program is not None
                program.save(str(unfinished), external_data=False)
        except OSError:  # a full disk says nothing about the model
            raise
        except Exception as error:  # neither is what the exporter raises
            raise not_exportable("torch.onnx.export", error, dynamic_batch) from error
        calls = [(args, kwargs), *([fewer(args, kwargs)] if dynamic_batch else [])]
        try:
            session = runtime.InferenceSession(str(unfinished), providers=["CPUExecutionProvider"])
            found = [_run(session, *call) for call in calls]
        except Exception as error:  # onnxruntime has an error class of its own for each status
            hint = "; most of its operators take float32 alone: for another dtype try model.float()"
            raise not_exportable("onnxruntime", error, dynamic_batch, hint) from error
        return max(
            difference(answers(model, *call), got, "onnxruntime", tolerance)
            for call, got in zip(calls, found, strict=True)
        )


def _file(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f'expected path as the name of a file, such as "pruned.onnx", got {shown(path)}')
    file = Path(path)
    if not file.parent.is_dir():
        raise ConfigError(f"cannot export to {path}: the folder {file.parent} is not there, make it first")
    if file.is_dir():
        raise ConfigError(f"cannot export to {path}: that is a folder; name a file in it, such as pruned.onnx")
    return file


def _run(session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    names = [entry.name for entry in session.get_inputs()]
    # The exporter drops inputs that nothing reads; keyword inputs keep their names.
    feed = {name: kwargs[name] for name in names if isinstance(kwargs.get(name), Tensor)} if kwargs else {}
    if len(feed) != len(names):
        feed = dict(zip(names, given, strict=True))
    outputs = session.run(None, {name: tensor.detach().cpu().numpy() for name, tensor in feed.items()})
    return tensors([torch.from_numpy(output) for output in outputs])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress on standard output and warns of its own internals."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _packages() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingHostError(
            f"exporting to ONNX and checking it needs {error.name}: pip install 'fairprune-plugin[export]'"
        ) from error
    return onnxruntime
