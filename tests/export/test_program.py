"""Exported programs: checked against the model, refused where they would lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairprune_plugin.errors import ConfigError, UnsupportedModelError
from fairprune_plugin.export import export_program
from fairprune_plugin.masks.norms import KeptStatistics


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))


class DataDependent(nn.Module):
    """Takes another way for other values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if y.sum() > 0 else -y


class Pretender(nn.Module):
    """Answers otherwise while it is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return -y if torch.compiler.is_exporting() else y


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_the_program_answers_like_the_model_in_eval_mode(form: str) -> None:
    model, x = network(), torch.randn(4, 6)
    inputs = {"tensor": x, "tuple": (x,), "dict": {"input": x}}[form]
    program = export_program(model, inputs)
    assert model.training
    assert not next(iter(model.buffers())).any()  # nothing ran in train mode
    model.eval()
    got = program.module()(input=x) if form == "dict" else program.module()(x)
    torch.testing.assert_close(got, model(x))


@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_any_batch_size(form: str) -> None:
    model, x = network(), torch.randn(4, 6)
    run = export_program(model, x if form == "tensor" else {"input": x}, dynamic_batch=True).module()
    more = torch.randn(9, 6)
    got = run(more) if form == "tensor" else run(input=more)
    torch.testing.assert_close(got, model.eval()(more))


class Switched(nn.Module):
    """Takes a flag and a number beside its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor, flag: bool = True, times: int = 1) -> Tensor:
        y: Tensor = times * self.layer(x)
        return -y if flag else y


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_any_batch_size_beside_arguments_that_are_no_tensors(form: str) -> None:
    model, x, more = Switched(), torch.randn(4, 6), torch.randn(9, 6)
    inputs = (x, False, 2) if form == "tuple" else {"x": x, "flag": False, "times": 2}
    run = export_program(model, inputs, dynamic_batch=True).module()
    got = run(more, False, 2) if form == "tuple" else run(x=more, flag=False, times=2)
    torch.testing.assert_close(got, model(more, False, 2))


@pytest.mark.parametrize("inputs", [torch.randn(1, 6), (torch.randn(4, 6), torch.randn(3, 6))], ids=["one", "uneven"])
def test_any_batch_size_needs_a_batch(inputs: object) -> None:
    with pytest.raises(ConfigError, match="dynamic_batch"):
        export_program(network(), inputs, dynamic_batch=True)


def test_what_cannot_be_exported_is_said_in_a_line() -> None:
    with pytest.raises(UnsupportedModelError, match=r"torch\.export cannot take this model") as raised:
        export_program(DataDependent(), torch.randn(4, 6))
    assert "\n" not in str(raised.value)


def test_a_program_that_answers_otherwise_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="differs from the model"):
        export_program(Pretender(), torch.randn(4, 6))


class Classifier(nn.Module):
    """Answers with scores and classes, or with classes alone; ``wrong`` ones while it is looked at."""

    def __init__(self, *, alone: bool, wrong: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.alone, self.wrong = alone, wrong

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores: Tensor = self.layer(x)
        ids = (-scores if self.wrong and torch.compiler.is_exporting() else scores).argmax(1)
        return ids if self.alone else (scores, ids)


@pytest.mark.parametrize("alone", [True, False])
def test_classes_are_compared_exactly(alone: bool) -> None:
    x = torch.randn(8, 6)
    export_program(Classifier(alone=alone, wrong=False), x, dynamic_batch=True)
    with pytest.raises(
        UnsupportedModelError, match=r"output [01] of the exported program differs from the model in 8 of 8"
    ):
        export_program(Classifier(alone=alone, wrong=True), x)


def test_hidden_channels_are_not_exported() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    model[1].register_forward_hook(KeptStatistics(torch.arange(8) < 4))
    with pytest.raises(ConfigError, match=r"under 1 are hidden.*pruner\.step\(\)"):
        export_program(model, torch.randn(4, 6))


def test_inputs_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="got str"):
        export_program(network(), "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": object()}, "expected an nn.Module to export, got object: pass .* result.model"),
        ({"tolerance": -1}, "tolerance as a number ≥ 0, got -1"),
        ({"tolerance": float("nan")}, "tolerance as a number ≥ 0, got nan"),
        ({"dynamic_batch": "yes"}, "dynamic_batch as True or False, got 'yes'"),
        ({"example_inputs": torch.randn(2, 5)}, r"the model cannot run on example_inputs=\(2, 5\)"),
    ],
    ids=["pruner", "negative", "nan", "yes", "shape"],
)
def test_arguments_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_program(**{"model": nn.Linear(3, 2), "example_inputs": torch.randn(2, 3), **options})
