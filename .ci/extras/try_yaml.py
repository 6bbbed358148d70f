"""A configuration, there and back."""

from fairprune_plugin import PrunerConfig

config = PrunerConfig(name="bifp")
assert PrunerConfig.from_text(config.to_yaml()) == config
