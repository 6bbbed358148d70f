"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fairprune_plugin import build_pruner
from fairprune_plugin.nni import TorchEvaluator

README = (Path(__file__).parents[1] / "README.md").read_text()


class Net(nn.Module):
    """Small, with the output layer the README calls ``fc``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.fc = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))


def setting() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    s = (torch.rand(600, generator=generator) < 0.4).long()
    y = (x[:, 0] + 0.5 * s + torch.randn(600, generator=generator) > 0).long()
    loader = DataLoader(TensorDataset(x[:400], y[:400], s[:400]), batch_size=50, shuffle=True, generator=generator)
    model = Net()
    return {
        "tp": tp,
        "F": F,
        "model": model,
        "example_inputs": x[:2],
        "loader": loader,
        "train_loader": loader,
        "val_loader": DataLoader(TensorDataset(x[400:], y[400:], s[400:]), batch_size=50),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    }


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_diff_is_a_working_loop() -> None:
    (diff,) = blocks("diff")
    lines = [line[1:] for line in diff.splitlines() if not line.startswith("-")]
    code = "\n".join(lines)
    names = setting()
    exec(code, names)
    assert names["model"].fc.in_features == 8
    assert names["model"].body[0].out_features == 16
    names["optimizer"].step()


def test_the_old_lines_of_the_diff_are_torch_prunings() -> None:
    (diff,) = blocks("diff")
    old = [line[1:] for line in diff.splitlines() if line.startswith("-")]
    names = setting()
    exec("\n".join(line for line in old if not line.startswith((" ", "for")) or "pruning_ratio" in line), names)
    assert isinstance(names["pruner"], tp.pruner.GroupNormPruner)


def test_fit_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = blocks("python")
    names = setting()
    exec("from fairprune_plugin import EqualOpportunity\nfrom fairprune_plugin.torch_pruning import BiFPPruner", names)
    exec(code, names)
    assert "equal_opportunity: gap" in capsys.readouterr().out
    assert names["result"].pruned.params < names["result"].dense.params


def test_nni_as_shown() -> None:
    _, code = blocks("python")
    names = setting()
    names["evaluator"] = TorchEvaluator(
        _train, nni.trace(torch.optim.SGD)(names["model"].parameters(), lr=0.05), _training_step
    )
    exec(code, names)
    assert names["model"].body[0].out_features == 16
    assert names["model"].fc.in_features == 8


def _train(model: nn.Module, optimizer: Any, training_step: Any, _: Any, max_steps: int, __: Any) -> None:
    done = 0
    while done < max_steps:
        for batch in setting()["loader"]:
            optimizer.zero_grad()
            training_step(batch, model).backward()
            optimizer.step()
            done += 1


def _training_step(batch: Any, model: nn.Module) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def test_the_config_line_of_the_table() -> None:
    (spec,) = re.findall(r"`build_pruner\((\{.*?\}\}), model, example_inputs\)`", README)
    names = setting()
    pruner = build_pruner(eval(spec), names["model"], names["example_inputs"], ignored_layers=[names["model"].fc])
    assert pruner.pruning_ratio == 0.5
    assert pruner.lagrangian.constraints[0].tolerance == 0.02
