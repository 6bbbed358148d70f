"""NNI's own pruner masks, our speed-up removes; and our pruner is there."""

from itertools import cycle, islice

import nni
import torch
from nni.compression.pruning import L1NormPruner
from torch.nn import functional as F

import fairprune_plugin
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.nni import BiFPPruner, TorchEvaluator, configure_structured, speedup
from toy import GIVEN, batches, network


def training_step(batch, model):
    x, y, _ = batch
    return F.cross_entropy(model(x), y)


def training_func(model, optimizer, training_step, lr_scheduler=None, max_steps=None, max_epochs=None):
    for batch in islice(cycle(batches()), max_steps):
        optimizer.zero_grad()
        training_step(batch, model).backward()
        optimizer.step()


assert "l1" in fairprune_plugin.pruner_names("nni")

for kind in (L1NormPruner, BiFPPruner):
    model = network()
    config_list = configure_structured(model, GIVEN, [{"op_names": ["0"], "sparse_ratio": 0.5}])
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1)
    if kind is L1NormPruner:
        pruner = L1NormPruner(model, config_list)
        _, masks = pruner.compress()
    else:
        pruner = BiFPPruner(
            model,
            config_list,
            TorchEvaluator(training_func, optimizer, training_step),
            warmup_step=2,
            cooldown_begin_step=8,
            constraint=EqualOpportunity(tolerance=0.02),
            sensitive=lambda batch: batch[2],
        )
        _, masks = pruner.compress(max_steps=16, max_epochs=None)
    pruner.unwrap_model()
    assert speedup(model, masks, GIVEN)[0].out_features == 8, kind
