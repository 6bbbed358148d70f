"""Without extras: the base works, no host came along, and what is missing is named."""

import importlib.util

import fairprune_plugin
from fairprune_plugin import EqualOpportunity, PrunerConfig, audit
from fairprune_plugin.errors import MissingHostError
from toy import batches, network

report = audit(network(), batches(), EqualOpportunity(tolerance=0.02))
assert "qual opportunity" in report.to_markdown()
assert PrunerConfig(name="bifp").name == "bifp"
assert importlib.util.find_spec("torch_pruning") is None
try:
    fairprune_plugin.pruner_names()
except MissingHostError as error:
    said = str(error)
else:
    said = "nothing"
assert "fairprune-plugin[torch-pruning]" in said, said
