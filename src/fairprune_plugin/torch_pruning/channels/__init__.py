"""From the host's dependency graph of a model to groups of channels that a mask can hide."""
