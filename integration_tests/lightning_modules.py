"""A module, its data and a trainer for tests of the Lightning callback."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fairprune_plugin.trainers.lightning import BiFPCallback
from trainer_data import EPOCHS, MICRO_BATCHES, batches, network

WARNS_OF_ITS_OWN = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:Warning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]
ALONE = pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning")
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Classifier(pl.LightningModule):
    """The network, its loss, and what the constraint needs beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, s = batch
        logits = self.net(x).float()
        return {"loss": F.cross_entropy(logits, y), "logits": logits, "targets": y, "sensitive": s}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(count: int = MICRO_BATCHES, seed: int = 0) -> DataLoader[Any]:
    return DataLoader(batches(count, seed), batch_size=None)


def train(
    module: pl.LightningModule, callback: BiFPCallback, ckpt_path: Any = None, library: Any = pl, **options: Any
) -> None:
    settings = {"enable_checkpointing": False, "max_epochs": EPOCHS, **QUIET, **options}
    settings["callbacks"] = [callback, *options.pop("callbacks", [])]
    library.Trainer(**settings).fit(module, loader(), ckpt_path=ckpt_path)


def float16(scaler: torch.amp.GradScaler) -> Any:
    """What ``precision="16-mixed"`` means on a GPU; on a CPU Lightning turns that into bfloat16."""
    return pl.plugins.precision.MixedPrecision("16-mixed", "cpu", scaler)
