"""ONNX files: onnxruntime's answers against the model's, and nothing left behind by a failure."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairprune_plugin.errors import ConfigError, MissingHostError, UnsupportedModelError
from fairprune_plugin.export import export_onnx


class TwoInputs(nn.Module):
    """Takes the second input first, and answers with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(4, 5)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.a(left).relu() - self.b(right), "left": left + 1}


def test_the_file_runs_in_onnxruntime_for_any_batch_size(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = TwoInputs(), tmp_path / "model.onnx"
    inputs = {"right": torch.randn(4, 4), "left": torch.randn(4, 3)}
    assert 0 <= export_onnx(model, inputs, path, dynamic_batch=True) < 1e-5
    assert model.training
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]  # weights are inside
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    more = {"left": torch.randn(7, 3), "right": torch.randn(7, 4)}
    logits, _ = session.run(None, {name: value.numpy() for name, value in more.items()})
    torch.testing.assert_close(torch.from_numpy(logits), model(**more)["logits"].detach())


class Classes(nn.Module):
    """Answers with classes and flags, with ``wrong`` ones while it is looked at."""

    def __init__(self, *, wrong: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.wrong = wrong

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores: Tensor = self.layer(x)
        scores = -scores if self.wrong and torch.compiler.is_exporting() else scores
        return scores.argmax(1), scores > 0


def test_classes_are_compared_exactly(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, x = tmp_path / "model.onnx", torch.randn(6, 3)
    assert export_onnx(Classes(wrong=False), x, path, dynamic_batch=True) == 0
    path.unlink()
    with pytest.raises(UnsupportedModelError, match="output 0 of onnxruntime differs from the model in 6 of 6 whole"):
        export_onnx(Classes(wrong=True), x, path)
    assert not path.exists()


def test_a_failure_leaves_the_older_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Unfit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return y if y.sum() > 0 else -y

    path = tmp_path / "model.onnx"
    path.write_text("older")
    with pytest.raises(UnsupportedModelError, match=r"torch\.onnx\.export cannot take this model") as refusal:
        export_onnx(Unfit(), torch.randn(4, 3), path)
    assert "\x1b" not in str(refusal.value)
    assert "TorchExportError" not in str(refusal.value)  # but what is behind it
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.onnx", "older")]


class Doubles(nn.Module):
    """A convolution in float64, for which onnxruntime has no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.double())
        return y


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(Doubles(), torch.randn(2, 3, 8, 8)), (nn.Linear(4, 2).bfloat16(), torch.randn(3, 4).bfloat16())],
    ids=["double", "bfloat16"],
)
def test_what_onnxruntime_cannot_run_is_refused_in_words(tmp_path: Path, model: nn.Module, inputs: Tensor) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(UnsupportedModelError, match=r"onnxruntime cannot take this model .*try model\.float\(\)"):
        export_onnx(model, inputs, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("there/model.onnx", "cannot export to .*: the folder .*there is not there, make it first"),
        (".", "cannot export to .*: that is a folder; name a file in it"),
        (5, 'expected path as the name of a file, such as "pruned.onnx", got 5'),
    ],
    ids=["no-folder", "folder", "number"],
)
def test_where_no_file_can_be(tmp_path: Path, path: Any, message: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(ConfigError, match=message):
        export_onnx(nn.Linear(3, 2), torch.randn(4, 3), path if path == 5 else tmp_path / path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(4, 5), r"cannot run on example_inputs=\(4, 5\) \(RuntimeError: "),
        ({"x": torch.randn(4, 3)}, r"cannot run on example_inputs=\{'x': \(4, 3\)\} \(TypeError: "),
    ],
    ids=["shape", "keyword"],
)
def test_inputs_of_another_model_are_not_blamed_on_the_model(tmp_path: Path, inputs: Any, message: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(ConfigError, match=message):
        export_onnx(nn.Linear(3, 2), inputs, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("onnx"):
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingHostError, match=r"needs onnx: pip install 'fairprune-plugin\[export\]'"):
        export_onnx(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "model.onnx")
