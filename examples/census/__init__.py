"""The Adult census example: data, a small network and the two ways to prune it."""
