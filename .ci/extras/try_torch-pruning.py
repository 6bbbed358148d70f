"""Channels go, and the smaller model comes back from its file."""

import torch

import fairprune_plugin
from fairprune_plugin import EqualOpportunity
from fairprune_plugin.torch_pruning import BiFPPruner, load_pruned, save_pruned
from toy import GIVEN, batches, network

assert "group_norm" in fairprune_plugin.pruner_names()
model = network()
pruner = BiFPPruner(
    model, GIVEN, pruning_ratio=0.5, ignored_layers=[model[2]], constraint=EqualOpportunity(tolerance=0.02)
)
result = pruner.fit(batches(), torch.optim.SGD(model.parameters(), lr=0.1), validation=batches(4), epochs=2)
assert result.model[0].out_features == 8
save_pruned(result.model, result, "pruned.safetensors")
again = load_pruned(network(), "pruned.safetensors", GIVEN)
assert torch.equal(again(GIVEN), result.model(GIVEN))
