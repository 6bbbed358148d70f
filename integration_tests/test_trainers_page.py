"""What docs/trainers.md shows runs as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import PretrainedConfig

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner
from trainer_data import samples

PAGE = (Path(__file__).parents[1] / "docs" / "trainers.md").read_text()
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:Warning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tensorboardX.*:Warning"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*:Warning"),
]


def block(*words: str) -> str:
    (found,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
        if all(word in code for word in words)
    )
    return found


class Net(nn.Module):
    """With the output layer that the page calls ``fc``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(6, 16), nn.Linear(16, 2)
        self.config = PretrainedConfig()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).relu())


class WithLoss(Net):
    """As a ``Trainer`` wants it."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


def names() -> dict[str, Any]:
    """What the page calls the user's own things."""
    loader, held_out = (DataLoader(TensorDataset(*samples(160)), batch_size=16) for _ in range(2))
    mine = {"torch": torch, "F": F, "Net": Net, "example_inputs": torch.zeros(2, 6)}
    return {**mine, "train_loader": loader, "val_loader": held_out}


def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)  # where Lightning writes its logs
    mine = names()
    exec(block("LightningModule"), mine)
    assert mine["module"].net.body.out_features == 8


def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    mine, model = names(), WithLoss()
    constraint = EqualOpportunity(tolerance=0.02)
    mine["pruner"] = BiFPPruner(
        model, {"x": torch.zeros(2, 6)}, pruning_ratio=0.5, ignored_layers=[model.fc], constraint=constraint
    )
    mine["model"] = model
    mine["dataset"] = [{"x": x, "labels": y, "gender": s} for x, y, s in zip(*samples(64), strict=True)]
    exec(block("TrainingArguments("), mine)
    assert mine["model"].body.out_features == 8


def test_a_loop_of_ones_own() -> None:
    mine, model = names(), Net()
    pruner = BiFPPruner(
        model,
        torch.zeros(2, 6),
        pruning_ratio=0.5,
        ignored_layers=[model.fc],
        constraint=EqualOpportunity(tolerance=0.02),
    )
    mine |= {"pruner": pruner, "model": model, "epochs": 2, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    exec(block("Session("), mine)
    assert model.body.out_features == 8
    assert len(mine["session"].history) == 20


def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("tensorboard", "mlflow"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the only store that needs no data base package
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    mine, model = {**names(), "mlflow": mlflow}, Net()
    constraint = EqualOpportunity(tolerance=0.02)
    mine["optimizer"] = torch.optim.SGD(model.parameters(), 0.1)
    mine["pruner"] = BiFPPruner(
        model, torch.zeros(2, 6), pruning_ratio=0.5, ignored_layers=[model.fc], constraint=constraint
    )
    exec(block("class Printer"), mine)
    try:
        writing = block("TensorBoardWriter(").replace("[tensorboard,", "[Printer(), tensorboard,")
        exec(writing, mine)
        runs = mlflow.search_runs(output_format="list")
    finally:
        mlflow.set_tracking_uri(before)
    last = runs[0].data.metrics
    assert last["validation/accuracy"] == pytest.approx(mine["result"].history[-1].accuracy)
    named = {name for name in re.findall(r"`([a-z_/]+?)(?:<constraint>)?`", PAGE) if "/" in name}
    written = {name.replace("equal_opportunity", "") for name in last}
    assert {"train/loss", "multiplier/", "validation/gap/"} <= named & written
    assert list(Path("runs/1").glob("events.*"))
    assert "equal_opportunity" in capsys.readouterr().out
