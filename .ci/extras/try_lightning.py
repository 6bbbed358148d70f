"""A network is pruned inside of ``Trainer.fit``."""

import lightning.pytorch as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner
from fairprune_plugin.trainers.lightning import BiFPCallback
from toy import GIVEN, batches, network


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        x, y, s = batch
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, y), "logits": logits, "targets": y, "sensitive": s}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


module = Classifier()
constraint = EqualOpportunity(tolerance=0.02)
pruner = BiFPPruner(module.net, GIVEN, pruning_ratio=0.5, ignored_layers=[module.net[2]], constraint=constraint)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[BiFPCallback(pruner)])
trainer.fit(module, DataLoader(batches(), batch_size=None))
assert module.net[0].out_features == 8
